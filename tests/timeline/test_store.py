"""The store: whole or not at all, on a disk and in S3."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npo_core.errors import ConfigError, DamagedError, StorageError
from npo_core.timeline import Snapshots, Store, disk, snapshot_id
from npo_core.timeline.s3 import PatientS3

NAMES = st.text(alphabet="abcXYZ019_-é ", min_size=1, max_size=12).filter(lambda name: name.strip() == name)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FOLDERS = st.dictionaries(PATHS, st.binary(max_size=2000), min_size=1, max_size=5).filter(
    lambda files: not any(other.startswith(f"{name}/") for name in files for other in files)
)
PROPERTY = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_bytes_and_json_come_back(store: Store) -> None:
    store.write_bytes("a/b/c.bin", b"\x00\xff")
    store.write_json("a/x.json", {"b": 1, "a": [None, "é"]})
    assert store.read_bytes("a/b/c.bin") == b"\x00\xff"
    assert store.read_json("a/x.json") == {"a": [None, "é"], "b": 1}
    assert store.read_bytes("a/x.json").decode().index('"a"') < store.read_bytes("a/x.json").decode().index('"b"')
    assert store.list("a") == ["b", "x.json"]
    assert store.list() == ["a"]
    assert store.exists("a/b") and store.exists("a/b/c.bin") and not store.exists("a/nothing")


def test_overwriting_shows_at_once(store: Store) -> None:
    for value in range(3):
        store.write_json("x.json", value)
        assert store.read_json("x.json") == value


def test_absent_things(store: Store) -> None:
    assert store.list("nothing") == []
    assert store.read_json("nothing.json", default=7) == 7
    store.remove("nothing")
    with pytest.raises(DamagedError, match="nothing.json is absent"):
        store.read_json("nothing.json")
    with pytest.raises(DamagedError, match="nothing is absent"):
        store.fetch("nothing", Path("/tmp"))


def test_json_that_is_none_names_the_file(store: Store) -> None:
    store.write_bytes("x.json", b'{"a": ')
    with pytest.raises(DamagedError, match=r"x\.json is not JSON .*6 bytes.*delete it"):
        store.read_json("x.json", default=None)


def test_remove(store: Store) -> None:
    store.write_bytes("a/b/c", b"1")
    store.write_bytes("ab", b"2")
    store.remove("a")
    assert not store.exists("a/b/c") and store.exists("ab")
    store.remove("ab")
    assert store.list() == []


@pytest.mark.parametrize("name", ["run*", "run?", "run[12]", "a::b", "run?versionId=1"])
def test_names_that_would_be_read_as_patterns_are_refused(s3_store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="read as a pattern.*choose a name without"):
        Store(f"{s3_store.uri}/{name}")
    with pytest.raises(ConfigError, match="choose a name without"):
        s3_store.remove(name)


def test_a_local_folder_may_have_any_name_but_a_chain(tmp_path: Path) -> None:
    store = Store(tmp_path / "run*[1]?")
    store.write_bytes("a/b", b"1")
    Store(tmp_path / "run1").write_bytes("a/b", b"2")
    store.remove("a")
    assert Store(tmp_path / "run1").read_bytes("a/b") == b"2"
    with pytest.raises(ConfigError, match="chain"):
        Store(tmp_path / "a::b")


def test_objects_are_deleted_by_their_exact_names(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of several thousand has a name that s3fs would read as a pattern; two pages here."""
    client, (bucket, prefix) = boto3.client("s3"), s3_store.uri.removeprefix("s3://").split("/", 1)
    monkeypatch.setattr("npo_core.timeline.store.DELETED_AT_ONCE", 2)
    for name in ("a/*", "a/b", "a/b/c", "a/", "ab", "c"):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"1")
    s3_store.remove("a")
    left = [found["Key"] for found in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]]
    assert left == [f"{prefix}/ab", f"{prefix}/c"]
    s3_store.remove("c")
    assert s3_store.list() == ["ab"]


def test_child_and_paths(store: Store) -> None:
    child = store.child("a/b")
    child.write_bytes("c", b"1")
    assert store.read_bytes("a/b/c") == b"1"
    assert child.uri == f"{store.uri}/a/b"
    assert store.fs.cat_file(store.path("a/b/c")) == b"1"
    for outside in ("../x", "/x", "a/../../x"):
        with pytest.raises(ConfigError, match="leaves the folder"):
            store.path(outside)


def test_pyarrow_reads_and_writes_by_path(store: Store, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "t.parquet")
    store.write_bytes("t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert pq.read_table(store.path("t.parquet"), filesystem=store.fs)["x"].to_pylist() == [1, 2]


def test_create_has_one_winner(store: Store) -> None:
    won = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        if store.create_bytes("once", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1
    assert store.read_bytes("once") == str(won[0]).encode()
    assert store.list() == ["once"]


@settings(max_examples=25, **PROPERTY)
@given(files=FOLDERS, last=NAMES)
def test_random_folders_round_trip(store: Store, files: dict[str, bytes], last: str) -> None:
    files = {f"files/{name}": data for name, data in files.items()} | {last + ".json": b"{}"}
    rel = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as scratch:
        src = make_folder(Path(scratch, "src"), files)
        store.put_folder(src, rel, last + ".json")
        assert not src.exists()
        assert contents(store.fetch(rel, Path(scratch, "down"))) == files
        assert contents(store.fetch(rel, Path(scratch, "down"))) == files


def test_put_folder_needs_its_last_file(store: Store, tmp_path: Path) -> None:
    src = make_folder(tmp_path / "src", {"a": b"1"})
    with pytest.raises(DamagedError, match="holds no last.json"):
        store.put_folder(src, "f", "last.json")
    assert contents(src) == {"a": b"1"}


def test_put_folder_replaces_a_torn_one(store: Store, tmp_path: Path) -> None:
    store.write_bytes("f/old", b"torn")
    store.put_folder(make_folder(tmp_path / "src", {"a": b"1", "last": b"2"}), "f", "last")
    assert contents(store.fetch("f", tmp_path / "down")) == {"a": b"1", "last": b"2"}


def test_put_folder_keeps_a_complete_one(store: Store, tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        store.put_folder(make_folder(tmp_path / "src", {"a": content, "last": b""}), "f", "last")
    assert not (tmp_path / "src").exists()
    assert store.read_bytes("f/a") == b"first"


def test_put_folder_from_another_disk(local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = make_folder(tmp_path / "src", {"a/b": b"1", "last": b"2"})
    rename = os.rename

    def rename_on_one_disk(old: Path, new: Path) -> None:
        if Path(old) == src and not Path(new).name.startswith(disk.TEMP_PREFIX):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_on_one_disk)
    local_store.put_folder(src, "f", "last")
    assert contents(local_store.local("f")) == {"a/b": b"1", "last": b"2"}
    assert not src.exists() and local_store.clean_leftovers() == []


def test_last_is_uploaded_last(s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, put_file = [], s3_store.fs._put_file

    async def put(local: str, remote: str, **kwargs: object) -> None:
        await put_file(local, remote, **kwargs)
        there.append(remote.rpartition("/")[2])

    monkeypatch.setattr(s3_store.fs, "_put_file", put)
    s3_store.put_folder(make_folder(tmp_path / "src", {"a": b"", "m": b"", "z": b"", "last": b"{}"}), "f", "last")
    assert sorted(there[:3]) == ["a", "m", "z"] and there[3:] == ["last"]


def test_an_upload_that_breaks_off_stays_invisible_and_is_resumed(
    s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = make_folder(tmp_path / "src", {"a": b"1", "b": b"2", "last": b"3"})
    with monkeypatch.context() as patch:
        put_file = s3_store.fs._put_file

        async def put_first(local: str, remote: str, **kwargs: object) -> None:
            if local.endswith("/b"):
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            await put_file(local, remote, **kwargs)

        patch.setattr(s3_store.fs, "_put_file", put_first)
        with pytest.raises(StorageError, match="cannot be reached"):
            s3_store.put_folder(src, "f", "last")
    assert not s3_store.exists("f/last")
    s3_store.put_folder(src, "f", "last")
    assert s3_store.list("f") == ["a", "b", "last"]


WRITER = """
import itertools, sys
from pathlib import Path
from npo_core.timeline import Store
root = Path(sys.argv[1])
store = Store(root / "workspace")
for number in itertools.count():
    src = root / f"src-{number}"
    src.mkdir()
    for name in "abc":
        (src / name).write_bytes(str(number).encode() * 100_000)
    (src / "last").write_text("abc")
    store.put_folder(src, f"folders/{number}", "last")
    store.write_bytes("value", str(number % 10).encode() * 1_000_000)
    store.create_bytes(f"created/{number}", b"x" * 100_000)
    if number == 1:
        print("ready", flush=True)
"""


def _run_and_kill(code: str, root: Path, wait_s: float) -> None:
    """Kill a writer `wait_s` seconds after it says that two folders are whole, however slow the machine."""
    with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)


def test_killed_writers_leave_all_or_nothing(tmp_path: Path) -> None:
    pick, seen = random.Random(0), 0
    for attempt in range(8):
        root = tmp_path / str(attempt)
        root.mkdir()
        _run_and_kill(WRITER, root, pick.uniform(0.0, 0.15))
        store = Store(root / "workspace")
        assert len(set(store.read_bytes("value"))) == 1 if store.exists("value") else True
        for number in store.list("folders"):
            seen += 1
            folder = store.fetch(f"folders/{number}", tmp_path)
            expected = str(number).encode() * 100_000
            assert contents(folder) == {"a": expected, "b": expected, "c": expected, "last": b"abc"}
        assert all(store.read_bytes(f"created/{name}") == b"x" * 100_000 for name in store.list("created"))
        store.clean_leftovers()
        assert not list(Path(store.uri).rglob(".tmp-*"))
    assert seen >= 2 * 8


S3_WRITER = """
import itertools, sys
from pathlib import Path
from npo_core.timeline import Store
root = Path(sys.argv[1])
store = Store((root / "uri").read_text())
for number in itertools.count():
    src = root / f"src-{number}"
    src.mkdir()
    for name in "abc":
        (src / name).write_bytes(str(number).encode() * 1000)
    (src / "last").write_text("abc")
    store.put_folder(src, f"folders/{number}", "last")
    if number == 1:
        print("ready", flush=True)
"""


def test_killed_uploads_leave_all_or_nothing(s3_store: Store, tmp_path: Path) -> None:
    (tmp_path / "uri").write_text(s3_store.uri)
    seen = 0
    for wait_s in (0.02, 0.11, 0.23):
        shutil.rmtree(tmp_path / "src-0", ignore_errors=True)
        _run_and_kill(S3_WRITER, tmp_path, wait_s)
        for src in tmp_path.glob("src-*"):
            shutil.rmtree(src)
        for number in s3_store.list("folders"):
            if s3_store.exists(f"folders/{number}/last"):
                seen += 1
                folder = s3_store.fetch(f"folders/{number}", tmp_path / f"down-{wait_s}")
                expected = str(number).encode() * 1000
                assert contents(folder) == {"a": expected, "b": expected, "c": expected, "last": b"abc"}
    assert seen >= 2 * 3


PART_WRITER = """
import os, signal, sys
from pathlib import Path
from npo_core.timeline import Snapshots, Store, store
from npo_core.timeline.s3 import PatientS3
store.PART_BYTES = 5 * 2**20  # S3 takes no smaller ones
root, parts, call = Path(sys.argv[1]), [], PatientS3._try

async def killed(self, method, *args, **kwargs):
    if method == "upload_part":
        parts.append(kwargs["PartNumber"])
        if len(parts) == store.PARTS + 1:  # those of the first round are there, and not the last
            os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, *args, **kwargs)

PatientS3._try = killed
for step in (1, 2):
    folder = root / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    (folder / "small").write_bytes(b"s")
    (folder / "large").write_bytes(bytes(1000 if step == 1 else 21 * 2**20))
    Snapshots(Store((root / "uri").read_text())).add(folder, content={"step": str(step)}, step=step, info={})
"""


def test_an_upload_that_is_killed_between_two_parts_is_no_snapshot(s3_store: Store, tmp_path: Path) -> None:
    """The one before stays whole; what is left goes, and the next attempt has all of it."""
    (tmp_path / "uri").write_text(s3_store.uri)
    done = subprocess.run([sys.executable, "-c", PART_WRITER, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    snapshots = Snapshots(s3_store)
    [first] = snapshots.list()
    assert first.step == 1 and contents(snapshots.folder(first.id, tmp_path / "down"))["small"] == b"s"
    large = f"{snapshot_id({'step': '2'}, 2)}/large"
    assert not s3_store.exists(large) and s3_store.clean_leftovers() == [large]
    snapshots.add(tmp_path / "checkpoint-2", content={"step": "2"}, step=2, info={})
    assert [snapshot.step for snapshot in snapshots.list()] == [1, 2]
    second = snapshots.folder(snapshot_id({"step": "2"}, 2), tmp_path / "down")  # which checks every hash
    assert (second / "large").stat().st_size == 21 * 2**20


def test_several_files_and_parts_are_uploaded_at_once(s3_store: Store, tmp_path: Path, monkeypatch) -> None:
    """All parts that may be under way together are there before the first of them ends."""
    monkeypatch.setattr("npo_core.timeline.store.PART_BYTES", 5 * 2**20)
    call, under_way, most = PatientS3._try, set(), []

    async def counted(self, method, *args, **kwargs):
        if method != "upload_part":
            return await call(self, method, *args, **kwargs)
        under_way.add(part := (kwargs["Key"], kwargs["PartNumber"]))
        most.append(len(under_way))
        try:
            return await call(self, method, *args, **kwargs)
        finally:
            under_way.remove(part)

    monkeypatch.setattr(PatientS3, "_try", counted)
    src = make_folder(tmp_path / "src", {"a": bytes(11 * 2**20), "b": bytes(11 * 2**20), "last": b"l"})
    s3_store.put_folder(src, "f", "last")
    assert max(most) > 3 and s3_store.list("f") == ["a", "b", "last"]


def test_without_hard_links_exactly_one_creates(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: local_store.create_bytes("a/once", str(number).encode() * 1000), range(8)))
    assert sum(made) == 1 and local_store.read_bytes("a/once") == str(made.index(True)).encode() * 1000


def test_a_file_is_written_as_it_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"line\n" * 1000)
    for _ in range(2):
        store.write_file("stages/log.txt", tmp_path / "log.txt")
    assert store.read_bytes("stages/log.txt") == b"line\n" * 1000 and store.list("stages") == ["log.txt"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(local_store: Store) -> None:
    local_store.write_bytes("a/x", b"1")
    mine = disk.temp_beside(local_store.local("a/x"))
    mine.write_bytes(b"being written")
    host = mine.name.split("-")[1]
    dead_folder = local_store.local("a") / f".tmp-{host}-{os.getpid()}-1-0badcafe"
    make_folder(dead_folder, {"b/c": b"half"})
    local_store.local(".tmp-otherhost-1-1-0badcafe").write_bytes(b"half")
    assert local_store.list("a") == ["x"]
    assert local_store.clean_leftovers() == [".tmp-otherhost-1-1-0badcafe", f"a/{dead_folder.name}"]
    assert mine.exists() and not dead_folder.exists()


def test_leftover_uploads_in_parts_are_ended(s3_store: Store) -> None:
    client = boto3.client("s3")
    bucket, key, _ = s3_store.fs.split_path(s3_store.path("big"))
    client.create_multipart_upload(Bucket=bucket, Key=key)
    client.create_multipart_upload(Bucket=bucket, Key="of-another-run")
    assert s3_store.clean_leftovers() == ["big"]
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["of-another-run"]


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A disk of 256 KiB, where this user may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(tiny_disk: Path, tmp_path: Path) -> None:
    store = Store(tiny_disk / "run")
    store.write_bytes("x", b"old" * 1000)
    with pytest.raises(StorageError, match=r"disk behind .*tiny/run is full while writing x \(1000000 bytes\): free"):
        store.write_bytes("x", b"n" * 1_000_000)
    src = make_folder(tmp_path / "src", {"a": b"n" * 1_000_000, "last": b""})
    with pytest.raises(StorageError, match=r"is full while writing f \(1000000 bytes\)"):
        store.put_folder(src, "f", "last")
    assert store.read_bytes("x") == b"old" * 1000
    assert store.list() == ["x"] and not list(tiny_disk.rglob(".tmp-*"))
    assert len(contents(src)["a"]) == 1_000_000
    store.write_bytes("x", b"still works")


def test_a_full_disk_anywhere(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    local_store.write_bytes("x", b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (local_store.write_bytes, local_store.create_bytes):
        with pytest.raises(StorageError, match="is full while writing") as raised:
            write("x", b"new")
        assert raised.value.retryable and raised.value.exit_code == 73
    assert local_store.read_bytes("x") == b"old"
    assert os.listdir(local_store.uri) == ["x"]


def test_refused_and_broken_disks_say_so(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, words in ((errno.EACCES, "was refused"), (errno.EROFS, "was refused"), (errno.EIO, "could not be")):

        def broken(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", broken)
            with pytest.raises(StorageError, match=f"x {words}.*{os.strerror(number)}.*same command again"):
                local_store.write_bytes("x", b"")


def test_a_missing_bucket_is_named(s3_endpoint: str) -> None:
    store = Store("s3://no-such-bucket/run")
    for call in (lambda: store.write_bytes("x", b""), lambda: store.create_bytes("x", b""), store.list):
        with pytest.raises(StorageError, match="The bucket of s3://no-such-bucket/run does not exist"):
            call()


def test_missing_credentials_are_named(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = Store("s3://runs/none", {"skip_instance_cache": True})
    with pytest.raises(StorageError, match="No S3 credentials were found for s3://runs/none"):
        store.read_bytes("x")


def test_an_endpoint_that_is_away_is_named(s3_endpoint: str) -> None:
    store = Store("s3://runs/x", {"endpoint_url": "http://127.0.0.1:9", "patience_s": 0.0})
    with pytest.raises(StorageError, match="s3://runs/x/y cannot be reached .*AWS_ENDPOINT_URL"):
        store.write_bytes("y", b"")


def test_a_download_that_breaks_off_is_made_anew(
    s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.put_folder(make_folder(tmp_path / "src", {"a": b"1", "last": b"2"}), "f", "last")
    with monkeypatch.context() as patch:

        def full(remote: str, local: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(s3_store.fs, "get_file", full)
        with pytest.raises(StorageError, match=f"The disk behind {tmp_path}/down is full"):
            s3_store.fetch("f", tmp_path / "down")
    assert os.listdir(tmp_path / "down") == []
    assert contents(s3_store.fetch("f", tmp_path / "down")) == {"a": b"1", "last": b"2"}


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("run").uri == Store(f"file://{tmp_path}/run").uri == str(tmp_path / "run")
    with pytest.raises(ConfigError, match="scheme 'gopher'"):
        Store("gopher://x")
    with pytest.raises(ConfigError, match="names no bucket"):
        Store("s3://")
    with pytest.raises(ConfigError, match="is not a local folder"):
        Store("s3://runs/x").local("y")
