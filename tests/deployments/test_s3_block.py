"""Secrets of a block and of a worker's environment: into the environment of a run, and nowhere else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.deployments.conftest import deployed_run
from tests.flows.conftest import ask, finish

SECRET = "hidden-4711"  # in the block
PLANTED = {"HF_TOKEN": "hidden-0815", "WANDB_API_KEY": "hidden-1234"}  # in the worker's environment
ANSWERED = (
    "flow_runs",
    "task_runs",
    "flow_run_states",
    "deployments",
    "work_pools",
    "logs",
    "artifacts",
    "events",
    "automations",
    "block_documents",
)
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


@pytest.mark.thorough
def test_a_run_on_s3_with_credentials_from_the_block(server, s3):
    plain = {name: value for name, value in server.items() if not name.startswith("AWS_")}
    blocks = [sys.executable, "deployments/blocks.py"]
    missing = finish(blocks, plain)
    assert missing.returncode == 1 and "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set" in missing.stderr
    old = 'from prefect.blocks.system import Secret; Secret(value={"key": "x"}).save("npo-s3", _sync=True)'
    assert finish([sys.executable, "-c", old], plain).returncode == 0
    assert finish(blocks, plain | s3).returncode == 0
    assert "npo-s3" not in {block["name"] for block in answered(plain, "block_documents", "")}

    run = deployed_run(plain, "npo-s3", "s3://runs/tiny", template="deployments/process/work-pool.json")
    start = [*PREFECT, "worker", "start", "--pool", "npo-s3", "--type", "process", "--run-once"]
    worker = finish(start, plain | PLANTED)
    state = ask(plain, f"flow_runs/{run}")["state"]
    assert state["type"] == "COMPLETED", state["message"] + worker.stdout + worker.stderr
    shown = finish([sys.executable, "-m", "npo_core", "status", "s3://runs/tiny", "--json"], plain | s3)
    assert shown.returncode == 0, shown.stderr

    told = {f"the server's {kind}": json.dumps(answered(plain, kind, run)).encode() for kind in ANSWERED}
    assert b"blocks.secret.npo-s3-secret-access-key" in told["the server's work_pools"]
    assert all(len(told[f"the server's {kind}"]) > 2 for kind in ("logs", "artifacts", "events", "task_runs"))
    files = {str(path): path.read_bytes() for path in Path(plain["NPO_HOME"]).rglob("*") if path.is_file()}
    assert any(name.endswith("prefect.db") for name in files) and any("lock" in name for name in files)
    objects = stored(s3)
    assert any(name.endswith("spec.json") for name in objects) and any(name.endswith("log.txt") for name in objects)
    printed = {"the worker's output": (worker.stdout + worker.stderr).encode()}
    everything = told | files | objects | printed
    found = [
        name for name, text in everything.items() for secret in (SECRET, *PLANTED.values()) if secret.encode() in text
    ]
    assert not found


def answered(environment: dict[str, str], kind: str, run: str) -> list:
    """What the server says of a kind of record."""
    if kind == "flow_run_states":
        return ask(environment, f"{kind}/?flow_run_id={run}")
    found = ask(environment, f"{kind}/filter", {"limit": 50} if kind == "events" else {})
    return found["events"] if kind == "events" else found


def stored(s3: dict[str, str]) -> dict[str, bytes]:
    """Every object of the bucket."""
    keys = {name.lower(): s3[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], region_name="us-east-1", **keys)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="runs")
    names = [found["Key"] for page in pages for found in page["Contents"]]
    return {f"s3://runs/{name}": client.get_object(Bucket="runs", Key=name)["Body"].read() for name in names}
