"""A run on S3 whose lease runs out and is taken while a stage trains."""

import threading
import time

import boto3
import pytest

from npo_core.errors import StorageError, WorkspaceBusyError
from npo_core.recipes.local import run_local
from npo_core.stages import forked
from npo_core.timeline import Store, workspace_lock
from npo_core.timeline.lock import S3_LOCK, S3Lease, require_free
from tests.recipes.conftest import tiny
from tests.timeline.conftest import BUCKET


def listing(prefix: str) -> dict[str, object]:
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {found["Key"]: found["ETag"] for page in pages for found in page.get("Contents", [])}


@pytest.mark.thorough
def test_a_run_ends_before_it_writes_into_anothers_segment(home, s3_endpoint, monkeypatch):
    """Its process cannot renew; the stage goes on computing, and has nothing written once another holds the lease."""
    monkeypatch.setattr(forked, "_servers", {})  # a new one, which knows of this S3
    monkeypatch.setitem(workspace_lock.__wrapped__.__kwdefaults__, "lease_s", 6.0)
    monkeypatch.setitem(workspace_lock.__wrapped__.__kwdefaults__, "renew_s", 0.5)
    away, renew, at_theft = threading.Event(), S3Lease.renew, {}

    def renewed(lease: S3Lease) -> None:  # by its thread
        if away.is_set():
            raise StorageError("away")
        renew(lease)

    monkeypatch.setattr(S3Lease, "renew", renewed)
    direct = Store(f"s3://{BUCKET}/lost/run")

    def steal() -> None:
        while not any("mark-" in name for name in listing("lost/run/segments/")):
            time.sleep(0.1)
        away.set()
        while direct.read_json(S3_LOCK)["expires"] > time.time():
            time.sleep(0.1)
        require_free(direct)
        direct.write_json(S3_LOCK, {"token": "other", "owner": "thief", "pid": 7, "expires": time.time() + 600})
        at_theft.update(listing("lost/run/"))

    thief = threading.Thread(target=steal)
    thief.start()
    try:
        with pytest.raises(WorkspaceBusyError, match="was lost to 'thief'"):
            run_local("grpo", tiny(training__steps=4000, evaluation__every=4000), direct.uri)
    finally:
        thief.join()
        for server in forked._servers.values():
            server.close()
    assert listing("lost/run/") == at_theft and direct.list("segments")
