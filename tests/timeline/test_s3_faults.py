"""A workspace in an S3 that throttles, cuts connections, and goes away: what is stored is whole, and nothing ends."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from npo_core.errors import ConfigError, StorageError, WorkspaceBusyError
from npo_core.stages.execute import end_without_lease, stop_asked
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Store, lock, s3, workspace_lock
from npo_core.timeline.lock import LEASE_FILE, S3_LOCK, check_lease, go_on_under, hand_on
from npo_core.timeline.s3 import Tries
from npo_core.timeline.segments import Mark, write_part
from tests.timeline.conftest import BUCKET
from tests.timeline.faults import FaultyS3, Request, always, first, winners
from tests.timeline.test_store import contents, make_folder

PART = 64 * 1024  # S3 takes none below 5 MiB; the mock is told otherwise
LARGE = bytes(range(256)) * (5 * PART // 512)  # two parts and a half


@pytest.fixture
def faulty(s3_endpoint: str) -> Iterator[FaultyS3]:
    with FaultyS3.before(s3_endpoint) as server:
        yield server


@pytest.fixture
def far(faulty: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store behind it, with waits of a thirtieth: 180 seconds of patience are six here."""
    for name in ("FIRST_S", "MOST_S", "QUIET_S", "AGAIN_S"):
        monkeypatch.setattr(s3, name, getattr(s3, name) / 30)
    monkeypatch.setattr("npo_core.timeline.store.PART_BYTES", PART)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", PART)
    timeouts = {"connect_timeout": 1, "read_timeout": 1}
    options = {"endpoint_url": faulty.url, "patience_s": s3.PATIENCE_S / 30, "config_kwargs": timeouts}
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}/run", {**options, "default_block_size": PART})


def parts(request: Request) -> bool:
    return request.command == "PUT" and "partNumber=" in request.path


def unfinished(store: Store) -> list[str]:
    bucket, prefix = store.path("").split("/", 1)
    found = boto3.client("s3").list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
    return [upload["Key"] for upload in found]


def use(store: Store, tmp_path: Path, name: str) -> None:
    """All that a run does with a store."""
    src = make_folder(tmp_path / name / "src", {"a/b": b"1", "large": LARGE, "last": b"2"})
    store.put_folder(src, f"{name}/f", "last")
    store.write_json(f"{name}/x.json", {"a": 1})
    assert store.create_bytes(f"{name}/once", b"1") in (True, False)
    assert store.read_json(f"{name}/x.json") == {"a": 1} and store.exists(f"{name}/once")
    assert store.list(name) == ["f", "once", "x.json"]
    found = contents(store.fetch(f"{name}/f", tmp_path / name / "down"))
    assert found == {"a/b": b"1", "large": LARGE, "last": b"2"}
    assert store.read_bytes(f"{name}/f/large") == LARGE
    store.remove(f"{name}/x.json")
    assert store.list(name) == ["f", "once"]
    store.clean_leftovers()  # a begin of an upload may have been answered to nobody
    assert unfinished(store) == []


def test_throttling_and_cut_connections_change_nothing(far: Store, faulty: FaultyS3, tmp_path: Path) -> None:
    """Of every three requests one is refused, cut in the middle, answered by half, or done and not answered."""
    numbers = iter(range(10**6))
    for verdict in ("slow", "cut", "half", "lost"):
        with faulty.doing(lambda request, verdict=verdict: verdict if next(numbers) % 3 == 0 else "pass"):
            use(far, tmp_path, verdict)
        assert faulty.count(verdict) >= 5


def test_a_cut_part_is_sent_again_and_not_the_others(far: Store, faulty: FaultyS3, tmp_path: Path) -> None:
    src = make_folder(tmp_path / "src", {"large": LARGE, "last": b"2"})
    with faulty.doing(first(1, "cut", parts)):
        far.put_folder(src, "f", "last")
    assert far.read_bytes("f/large") == LARGE and unfinished(far) == []
    assert sum("partNumber=" in path for _, path, _ in faulty.seen) == 4


def test_an_upload_that_never_gets_through_leaves_nothing(far: Store, faulty: FaultyS3, tmp_path: Path) -> None:
    """Neither half an object nor parts; where even these could not be given up, the next start does it."""
    far.fs.patience_s = 0.3
    for also, left in ((lambda request: False, 0), (lambda request: request.command == "DELETE", 1)):
        src = make_folder(tmp_path / "src", {"large": LARGE, "last": b"2"})
        with faulty.doing(always("cut", lambda request, also=also: parts(request) or also(request))):
            with pytest.raises(StorageError, match=r"/f cannot be reached .*tried for \d s.*same command again"):
                far.put_folder(src, "f", "last")
        assert far.list("f") == [] and len(unfinished(far)) == left
        assert far.clean_leftovers() == ["f/large"] * left and unfinished(far) == []


def test_an_end_of_an_upload_that_was_not_answered(far: Store, faulty: FaultyS3, tmp_path: Path) -> None:
    """S3 has the object and knows the upload no more."""
    src = make_folder(tmp_path / "src", {"large": LARGE, "last": b"2"})
    with faulty.doing(first(1, "lost", lambda request: request.command == "POST" and "uploadId=" in request.path)):
        far.put_folder(src, "f", "last")
    assert faulty.count("lost") == 1 and far.read_bytes("f/large") == LARGE and unfinished(far) == []


@pytest.mark.parametrize("how, seconds", [("cut", 120), ("hang", 45), ("slow", 30)])
def test_an_outage_is_waited_for_and_said(far: Store, faulty: FaultyS3, how: str, seconds: int, caplog) -> None:
    """Two minutes of the three, and less; the line in the log names what is waited for, and how long."""
    far.write_bytes("x", b"1")
    faulty.judge = always(how)

    def come_back() -> None:
        faulty.judge = always("pass")
        faulty.back.set()

    threading.Timer(seconds / 30, come_back).start()
    with ThreadPoolExecutor(2) as pool, caplog.at_level(logging.WARNING, "npo_core"):
        read, written = pool.submit(far.read_bytes, "x"), pool.submit(far.write_bytes, "y", b"2")
        assert read.result() == b"1" and written.result() is None
    assert far.read_bytes("y") == b"2" and 2 <= faulty.count(how) < 100  # aiohttp asks twice
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"Waiting for S3 to put_object {far.uri}/y: " in said and " s more" in said and "S3 answered after" in said


def test_patience_ends_and_who_must_not_wait_does_not(far: Store, faulty: FaultyS3) -> None:
    far.fs.patience_s = 0.5
    with faulty.doing(always("slow")):
        began = time.monotonic()
        with pytest.raises(
            StorageError, match=r"run cannot be reached .*reduce your request rate.*; tried for [1-4] s"
        ):
            far.list()
        assert 0.5 <= time.monotonic() - began < 5
        before = len(faulty.seen)
        with pytest.raises(StorageError, match="cannot be reached"):
            far.hasty().list()
        assert len(faulty.seen) == before + 1


def test_what_will_not_pass_is_not_tried_again(far: Store, faulty: FaultyS3) -> None:
    with faulty.doing(always("denied")), pytest.raises(StorageError, match="Access to .*/x was refused"):
        far.write_bytes("x", b"1")
    assert faulty.count("denied") == 1


def test_waits_grow_up_to_a_most_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes of an outage are within the patience, in at most forty tries."""
    now = [0.0]
    monkeypatch.setattr(s3.time, "monotonic", lambda: now[0])
    runs = []
    for _ in range(2):
        now[0], waits = 0.0, []
        tries = Tries("try", s3.PATIENCE_S)
        while (wait_s := tries.wait_s(OSError("away"))) is not None:
            waits.append(wait_s)
            now[0] += wait_s
        runs.append(waits)
        assert s3.PATIENCE_S <= now[0] < s3.PATIENCE_S + s3.MOST_S and 15 < len(waits) < 40
        assert all(s3.FIRST_S * 2**n / 2 <= wait_s <= s3.FIRST_S * 2**n for n, wait_s in enumerate(waits[:6]))
        assert all(s3.MOST_S / 2 <= wait_s <= s3.MOST_S for wait_s in waits[7:])
    assert runs[0] != runs[1]


def test_a_store_away_for_longer_than_the_lease_loses_nothing(far: Store, faulty: FaultyS3) -> None:
    """Where nobody else took it. Writes wait until it was renewed."""
    with workspace_lock(far, "first", lease_s=0.9, renew_s=0.1) as lease, ThreadPoolExecutor(1) as pool:
        with faulty.doing(always("cut")):
            time.sleep(0.2)
            pending = pool.submit(far.write_bytes, "x", b"1")
            while time.time() < lease.expires + 0.2:
                time.sleep(0.05)
            assert not pending.done()
        pending.result()
        lease.check()
        assert lease.expires > time.time() and far.read_bytes("x") == b"1"


def steal(direct: Store) -> None:
    """What a second starter writes, from where S3 answers."""
    direct.write_json(S3_LOCK, {"token": "other", "owner": "thief", "pid": 7, "expires": time.time() + 60})


def test_a_lease_lost_in_mid_segment_ends_the_run_before_it_writes(far: Store, faulty: FaultyS3) -> None:
    """It could not reach S3, another could; the part of a segment that it had begun to write is not written."""
    direct, steps = Store(far.uri), [{"step": 4, "loss": 0.5}]
    with pytest.raises(WorkspaceBusyError, match="was lost to 'thief'.*let the other one end"):
        with workspace_lock(far, "first", lease_s=0.9, renew_s=0.1) as lease, ThreadPoolExecutor(1) as pool:
            write_part(far, "before", Mark(4, "a", 1.0), steps, [])
            with faulty.doing(always("cut")):
                pending = pool.submit(write_part, far, "seg", Mark(4, "a", 1.0), steps, [])
                while time.time() < lease.expires:
                    time.sleep(0.05)
                steal(direct)
            with pytest.raises(WorkspaceBusyError, match="was lost to 'thief'"):
                pending.result()
            with pytest.raises(WorkspaceBusyError):
                far.remove("segments/before")
    assert direct.list("segments") == ["before"] and len(direct.list("segments/before")) == 3
    assert direct.read_json(S3_LOCK)["owner"] == "thief"


def test_a_request_under_way_is_broken_off_with_the_lease(far: Store, faulty: FaultyS3) -> None:
    direct = Store(far.uri)
    patient = Store(far.uri, {**far.storage_options, "config_kwargs": {"read_timeout": 60}})
    with pytest.raises(WorkspaceBusyError), faulty.doing(always("hang", lambda request: request.path.endswith("/x"))):
        with workspace_lock(far, "first", lease_s=0.9, renew_s=0.1), ThreadPoolExecutor(1) as pool:
            pending, began = pool.submit(patient.write_bytes, "x", b"1"), time.monotonic()
            while not faulty.count("hang"):
                time.sleep(0.02)
            steal(direct)
            with pytest.raises(WorkspaceBusyError):
                pending.result()
            assert time.monotonic() - began < 20
    assert not direct.exists("x")


def test_a_stage_writes_under_the_lease_of_who_started_it(far, faulty, tmp_path, monkeypatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("npo_core.stages.execute.os._exit", ended.append)
    direct, reads = (
        Store(far.uri),
        lambda: sum(path.endswith(S3_LOCK) for kind, path, _ in faulty.seen if kind == "GET"),
    )
    with pytest.raises(WorkspaceBusyError), workspace_lock(far, "first"):
        hand_on(far, tmp_path)
        go_on_under(far, tmp_path)  # as in another process, which has seen nothing of the lease yet
        before = reads()
        far.write_bytes("x", b"1")
        far.write_bytes("y", b"2")
        assert reads() == before + 1
        end_without_lease(Workspace(far.uri))
        assert not ended
        steal(direct)
        end_without_lease(Workspace(far.uri))
        assert ended == [75]
        with pytest.raises(WorkspaceBusyError, match="lost to 'thief'"):
            check_lease(far)
        with pytest.raises(WorkspaceBusyError):
            far.write_bytes("x", b"3")
        lock.GUARDS[far.path("")].check()
    assert direct.read_bytes("x") == b"1"
    hand_on(far, tmp_path)
    assert not (tmp_path / LEASE_FILE).exists()


@pytest.mark.parametrize("verdict", ["slow", "cut", "lost"])
def test_two_starters_through_a_bad_network(far: Store, faulty: FaultyS3, verdict: str) -> None:
    """Exactly one holds the workspace, whatever was answered to whom."""
    numbers = iter(range(10**6))
    for round_ in range(4):
        with faulty.doing(lambda request: verdict if next(numbers) % 2 == 0 else "pass"):
            assert len(winners(far.child(str(round_)))) == 1


@pytest.mark.parametrize("name", ["If-None-Match", "If-Match"])
def test_an_s3_without_conditional_writes_is_refused(far: Store, faulty: FaultyS3, name: str) -> None:
    faulty.unknown = {name.lower()}
    with pytest.raises(ConfigError, match=f"ignores {name}, .*use an S3 with"), workspace_lock(far, "first"):
        pass
    assert not far.exists(S3_LOCK)


def test_an_s3_that_never_meets_a_condition_is_refused(far: Store, faulty: FaultyS3, monkeypatch) -> None:
    """Ceph 16 compares an ETag without quotes, which is sent second; one that takes neither cannot renew a lease."""
    put, refused = Store._put_if, [True]

    def picky(store: Store, rel: str, data: bytes, how: dict[str, str]) -> str | None:
        etag = how.get("IfMatch", "")
        return None if etag and ('"' in etag or not refused[0]) else put(store, rel, data, how)

    monkeypatch.setattr(Store, "_put_if", picky)
    with workspace_lock(far, "first", renew_s=0.05) as lease:
        before = lease.expires
        ends = time.monotonic() + 30
        while lease.expires == before and time.monotonic() < ends:
            time.sleep(0.05)
        assert lease.expires > before
    refused[0] = False
    with pytest.raises(ConfigError, match="refuses If-Match, .*use an S3 with"), workspace_lock(far, "first"):
        pass


def test_who_watches_for_a_stop_does_not_wait(far: Store, faulty: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is no stop, and keeps nobody from looking whether the parent lives."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
    workspace, began = Workspace(far.uri), time.monotonic()
    with faulty.doing(always("cut")):
        assert not stop_asked(workspace)
    assert time.monotonic() - began < 10 and 1 <= faulty.count("cut") <= 2  # aiohttp asks twice
    workspace.store.write_bytes("stop", b"")
    assert stop_asked(workspace)


@pytest.mark.thorough
def test_thirty_seconds_away_in_real_time(faulty: FaultyS3, tmp_path: Path) -> None:
    store = Store(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}/run", {"endpoint_url": faulty.url})
    with workspace_lock(store, "first", lease_s=20, renew_s=4):
        faulty.judge, began = always("cut"), time.monotonic()
        threading.Timer(30.0, setattr, (faulty, "judge", always("pass"))).start()
        store.put_folder(make_folder(tmp_path / "src", {"a": b"1", "last": b"2"}), "f", "last")
        assert time.monotonic() - began > 29 and store.list("f") == ["a", "last"]
