"""The server on PostgreSQL, as deployments/compose.yaml configures it: a run to its end, and its artifacts."""

import pytest

from tests.deployments.conftest import prefect_server
from tests.flows.conftest import finish, npo


@pytest.mark.thorough
def test_a_run_on_a_server_with_postgresql(postgres, tiny, tmp_path):
    variables = {
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
        "PREFECT_SERVER_DATABASE_PORT": str(postgres.port),
        "PREFECT_SERVER_DATABASE_USER": "prefect",
        "PREFECT_SERVER_DATABASE_PASSWORD": postgres.password,
        "PREFECT_SERVER_DATABASE_NAME": "postgres",
    }
    with prefect_server(tmp_path, **variables) as environment:
        done = finish(npo("run", "grpo", "--config", tiny, "--workspace", tmp_path / "run"), environment)
        assert done.returncode == 0, done.stderr
        keys = set(postgres.ask("select key from artifact_collection"))
        assert {"tiny-base", "tiny-train-main-to-24", "tiny-evaluation", "tiny-report"} <= keys
        assert postgres.ask("select state_type from flow_run") == ["COMPLETED"]
        assert not list((tmp_path / "prefect").glob("*.db")), "the server made a SQLite database"
