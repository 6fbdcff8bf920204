"""A workspace in Ceph's S3: a real one, which checks signatures and decides conditional writes by itself."""

import itertools
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from npo_core.errors import WorkspaceBusyError
from npo_core.recipes.local import run_local
from npo_core.stages import forked
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Store, workspace_lock
from npo_core.timeline.lock import S3_LOCK
from tests.deployments.ceph import cluster, missing
from tests.flows.conftest import outcome, tiny
from tests.timeline.faults import FaultyS3, always, winners
from tests.timeline.test_store import contents, make_folder

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: in Debian's radosgw ceph-mon ceph-osd"),
]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory):
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))  # short, for the paths of sockets are
    home = tmp_path_factory.mktemp("home")
    try:
        with cluster(folder) as variables, pytest.MonkeyPatch.context() as patch:
            for name, value in {**variables, "NPO_HOME": str(home), "HF_HUB_OFFLINE": "1"}.items():
                patch.setenv(name, value)
            patch.setattr(forked, "_servers", {})  # a server of stages that knows of this S3
            boto3.client("s3").create_bucket(Bucket="runs")
            yield variables
            for server in forked._servers.values():
                server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_whole_early_bootstrap_is_the_run_on_a_disk(ceph, tmp_path, monkeypatch):
    """Though every ninth request is refused, cut, answered by half or not at all, and S3 is away for thirty seconds."""
    far, near, numbers = "s3://runs/early", tmp_path / "early", iter(range(10**6))
    kinds = itertools.cycle(("slow", "cut", "half", "lost"))
    with FaultyS3.before(ceph["AWS_ENDPOINT_URL"]) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
        faulty.judge = lambda request: next(kinds) if next(numbers) % 9 == 0 else "pass"

        def go_away() -> None:
            while not any(name.startswith("replay") for name in Store(far, direct).list("branches")):
                time.sleep(0.2)
            with faulty.doing(always("cut")):
                time.sleep(30)

        direct = {"endpoint_url": ceph["AWS_ENDPOINT_URL"]}
        outage = threading.Thread(target=go_away)
        outage.start()
        run_local("early-bootstrap", tiny({}), far)
        outage.join()
        assert all(faulty.count(kind) > 3 for kind in ("slow", "cut", "half", "lost"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph["AWS_ENDPOINT_URL"])
    run_local("early-bootstrap", tiny({}), str(near))
    assert outcome(far) == outcome(near)
    for id_ in Store(near).list("snapshots"):  # which checks every hash
        assert Workspace(far).snapshot_folder(id_, whole=True).is_dir()
    Store(far).clean_leftovers()
    assert Store(far).clean_leftovers() == [] and not Store(far).exists(S3_LOCK)


def test_one_of_sixteen_creates_and_one_of_two_starters_holds(ceph):
    store, barrier = Store("s3://runs/race"), threading.Barrier(16)

    def create(number: int) -> bool:
        barrier.wait()
        return store.create_bytes("once", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(create, range(16)))
    assert sum(made) == 1 and store.read_bytes("once") == str(made.index(True)).encode()
    for stale in (False, True):
        if stale:
            store.write_json(S3_LOCK, {"token": "dead", "owner": "dead", "expires": 1.0})
        assert len(winners(store)) == 1 and not store.exists(S3_LOCK)


def test_a_lease_is_renewed_and_taken_by_others_only_when_it_ran_out(ceph):
    """Ceph 16 compares the ETag of If-Match without its quotes."""
    store = Store("s3://runs/lease")
    with workspace_lock(store, "first", lease_s=3, renew_s=0.2) as lease:
        before = lease.expires
        time.sleep(4)
        assert lease.expires > before + 3
        with pytest.raises(WorkspaceBusyError, match="in use by 'first'"), workspace_lock(store, "second"):
            pass
        store.write_bytes("x", b"1")
    assert store.list() == ["x"]


def test_folders_and_uploads_in_parts(ceph, tmp_path, monkeypatch):
    monkeypatch.setattr("npo_core.timeline.store.PART_BYTES", 5 * 2**20)
    store = Store("s3://runs/parts", {"default_block_size": 5 * 2**20})
    large = bytes(range(256)) * (11 * 2**20 // 256)
    store.put_folder(make_folder(tmp_path / "src", {"a": b"1", "large": large, "last": b"2"}), "f", "last")
    assert contents(store.fetch("f", tmp_path / "down")) == {"a": b"1", "large": large, "last": b"2"}
    bucket, key, _ = store.fs.split_path(store.path("big"))
    boto3.client("s3").create_multipart_upload(Bucket=bucket, Key=key)
    assert store.clean_leftovers() == ["big"] and store.clean_leftovers() == []
    store.remove("f")
    assert store.list() == []
