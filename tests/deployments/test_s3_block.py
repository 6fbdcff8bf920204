"""S3 credentials from a Prefect block: into the environment of a worker's run, and nowhere else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.deployments.conftest import deployed_run
from tests.flows.conftest import ask, finish

SECRET = "hidden-4711"
PREFECT = (sys.executable, "-m", "prefect")


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """The variables of a mock S3 with the bucket `runs`."""
    mock = ThreadedMotoServer(port=0, verbose=False)
    mock.start()
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": SECRET}
    url = "http://{}:{}".format(*mock.get_host_and_port())
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="runs")
    yield {"AWS_ENDPOINT_URL": url, **{name.upper(): value for name, value in keys.items()}}
    mock.stop()


def test_a_run_on_s3_with_credentials_from_the_block(server, s3):
    plain = {name: value for name, value in server.items() if not name.startswith("AWS_")}
    blocks = [sys.executable, "deployments/blocks.py"]
    missing = finish(blocks, plain)
    assert missing.returncode == 1 and "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set" in missing.stderr
    assert finish(blocks, plain | s3).returncode == 0

    template = ["--base-job-template", "deployments/process/work-pool.json"]
    made = finish([*PREFECT, "work-pool", "create", "npo-s3", "--type", "process", *template], plain)
    assert made.returncode == 0, made.stderr
    run = deployed_run(plain, "npo-s3", "s3://runs/tiny")
    worker = finish([*PREFECT, "worker", "start", "--pool", "npo-s3", "--type", "process", "--run-once"], plain)
    state = ask(plain, f"flow_runs/{run}")["state"]
    assert state["type"] == "COMPLETED", state["message"] + worker.stdout + worker.stderr
    shown = finish([sys.executable, "-m", "npo_core", "status", "s3://runs/tiny", "--json"], plain | s3)
    assert shown.returncode == 0, shown.stderr

    kept = json.dumps([ask(plain, f"{kind}/filter", {}) for kind in ("flow_runs", "deployments", "work_pools", "logs")])
    assert "npo-s3.AWS_SECRET_ACCESS_KEY" in kept and SECRET not in kept + worker.stdout + worker.stderr
    files = [path.read_bytes() for path in Path(plain["PREFECT_HOME"]).glob("prefect.db*")]
    assert files and not any(SECRET.encode() in content for content in files), "the database holds it in clear"
