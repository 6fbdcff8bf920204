"""A store on a disk and one in S3 (moto), for every test that takes `store`."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.moto_server import werkzeug_app
from moto.server import ThreadedMotoServer

from npo_core.timeline import Store

BUCKET = "runs"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A mock of S3 with one bucket; the usual variables point to it for the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        # S3 decides conditional writes one after another; the mock would let two that meet both win.
        answer, turn = werkzeug_app.DomainDispatcherApplication.__call__, threading.Lock()

        def answer_in_turn(self, environ, start_response):
            with turn:
                return answer(self, environ, start_response)

        patch.setattr(werkzeug_app.DomainDispatcherApplication, "__call__", answer_in_turn)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in _environment(endpoint).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield endpoint
        server.stop()


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "workspace")


@pytest.fixture
def s3_store(s3_endpoint: str) -> Store:
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}/run")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, s3_endpoint: str) -> Store:
    """An empty workspace, once on a disk and once in S3, whose variables are set before any test's own."""
    return request.getfixturevalue(f"{request.param}_store")


def _environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
