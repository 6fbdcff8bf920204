"""PostgreSQL as Debian packages it, and Prefect servers, each for one module and in a folder of its own."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from prefect.workers.process import ProcessWorker

from flows.server import QUIET, free_port, start_server, wait_until_healthy
from tests.flows.conftest import ROOT, TINY, ask

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
AS_ROOT = os.geteuid() == 0  # PostgreSQL refuses to run as root; Debian's package makes this user
OWNER = {"user": "postgres", "group": "postgres", "extra_groups": []} if AS_ROOT else {}


@contextmanager
def prefect_server(home: Path, **variables: str) -> Iterator[dict[str, str]]:
    """The environment of commands that use a server of their own, which is configured by `variables`."""
    fixed = {"NPO_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "PREFECT_SERVER_UI_API_URL": "/api"}
    with patch.dict(os.environ, fixed | QUIET | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | variables):
        process, url = start_server()
        try:
            wait_until_healthy(process, url)
            yield {**os.environ, "PREFECT_API_URL": url}
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server on SQLite."""
    home = tmp_path_factory.mktemp("server")
    (home / "prefect").mkdir()
    shutil.copy(prefect_database, home / "prefect/prefect.db")
    with prefect_server(home) as environment:
        yield environment


def deployed_run(
    environment: dict[str, str],
    pool: str,
    workspace: str | Path,
    training: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    job_variables: dict[str, Any] | None = None,
    template: str | None = None,
) -> str:
    """Deploy the GRPO flow to a new pool of processes, by its template's file, and ask for one run of it; its id.

    By what `prefect work-pool create` and `prefect deploy` ask of the server, which cost seconds each to start.
    """
    job = json.loads((ROOT / template).read_text()) if template else ProcessWorker.get_default_base_job_template()
    ask(environment, "work_pools/", {"name": pool, "type": "process", "base_job_template": job})
    fields = {
        "name": pool,
        "flow_id": ask(environment, "flows/", {"name": "grpo"})["id"],
        "entrypoint": "flows/grpo.py:grpo",
        "path": str(ROOT),
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        "work_pool_name": pool,
        "enforce_parameter_schema": False,
    }
    deployment = ask(environment, "deployments/", fields)["id"]
    config = config or TINY | {"training": TINY["training"] | (training or {})}
    wanted = {"parameters": {"config": config, "workspace": str(workspace)}, "job_variables": job_variables or {}}
    return ask(environment, f"deployments/{deployment}/create_flow_run", wanted)["id"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@dataclass(frozen=True)
class Postgres:
    """A running cluster, its port and the password of its user `prefect`."""

    port: int
    password: str = "p@ss/word: 1"  # must be quoted in a URL

    def ask(self, sql: str) -> list[str]:
        """The lines of an answer."""
        command = [*self.to("psql"), "-d", "postgres", "-qtAc", sql]
        environment = {**os.environ, "PGPASSWORD": self.password}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()

    def to(self, program: str) -> list[str]:
        return [str(INSTALLED[-1] / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect"]

    def wait(self, process: subprocess.Popen, log: Path) -> None:
        deadline = time.monotonic() + 120
        while subprocess.run([*self.to("pg_isready"), "-q"]).returncode:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A new cluster on a free loopback port."""
    if not INSTALLED:
        how = "PostgreSQL is not installed: apt-get install postgresql"
        pytest.fail(how) if os.environ.get("NPO_NEED_PROGRAMS") else pytest.skip(how)
    cluster = Postgres(free_port())
    folder = Path(tempfile.mkdtemp(prefix="npo-postgres-"))
    if AS_ROOT:
        shutil.chown(folder, OWNER["user"], OWNER["group"])
    (folder / "password").write_text(cluster.password)
    make = ["initdb", "-D", "data", "-U", "prefect", "--auth=scram-sha-256", "--pwfile=password", "--no-sync"]
    start = ["postgres", "-D", "data", "-p", str(cluster.port), "-k", ".", "-c", "listen_addresses=127.0.0.1"]
    with open(folder / "log", "wb") as log:
        run = {"stdout": log, "stderr": log, "cwd": folder, **OWNER}
        subprocess.run([INSTALLED[-1] / make[0], *make[1:]], check=True, **run)
        process = subprocess.Popen([INSTALLED[-1] / start[0], *start[1:], "-c", "fsync=off"], **run)
    try:
        cluster.wait(process, folder / "log")
        yield cluster
    finally:
        process.send_signal(signal.SIGINT)  # its fast way down: open connections are cut
        process.wait(timeout=30)
        shutil.rmtree(folder)
