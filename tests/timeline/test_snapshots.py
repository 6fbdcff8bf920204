"""Snapshots: named by content, complete or invisible, damage named."""

from __future__ import annotations

import errno
import json
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npo_core.timeline.snapshots
from npo_core.errors import DamagedError, DataError, StorageError
from npo_core.stages.workspace import Workspace
from npo_core.timeline import MANIFEST, Snapshot, Snapshots, Store, snapshot_id

CONTENTS = st.dictionaries(st.sampled_from(["weights", "optimizer", "cursor"]), st.text("0123456789abcdef", max_size=4))
FILES = st.dictionaries(
    st.text("abcdef._-", min_size=1).filter(lambda name: name.strip(".")), st.binary(max_size=3000), max_size=4
)
PROPERTY = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@pytest.fixture
def snapshots(store: Store) -> Snapshots:
    return Snapshots(store.child("snapshots"))


def checkpoint(folder: Path, weights: bytes = b"w" * 5000) -> Path:
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "nested" / "rng.json").write_text("{}")
    return folder


def add(snapshots: Snapshots, folder: Path, step: int = 60, weights: str = "aa") -> Snapshot:
    return snapshots.add(checkpoint(folder), content={"weights": weights}, step=step, info={"tokenizer": "t1"})


def test_a_snapshot_comes_back(snapshots: Snapshots, tmp_path: Path) -> None:
    added = add(snapshots, tmp_path / "src")
    assert snapshots.get(added.id) == added == snapshots.find(added.id[:5])
    assert (added.step, added.info, added.content) == (60, {"tokenizer": "t1"}, {"weights": "aa"})
    assert added.bytes == 5002 and len(added.id) == 16
    folder = snapshots.folder(added.id, tmp_path / "scratch")
    assert (folder / "model.safetensors").read_bytes() == b"w" * 5000
    assert (folder / "nested" / "rng.json").read_text() == "{}"
    assert not (tmp_path / "src").exists()


def test_adding_twice_writes_once(snapshots: Snapshots, tmp_path: Path) -> None:
    first = add(snapshots, tmp_path / "one")
    before = snapshots.store.read_bytes(f"{first.id}/{MANIFEST}")
    again = snapshots.add(
        checkpoint(tmp_path / "two", b"other bytes, same values"),
        content={"weights": "aa"},
        step=60,
        info={"tokenizer": "t2"},
    )
    assert again == first and not (tmp_path / "two").exists()
    assert snapshots.store.read_bytes(f"{first.id}/{MANIFEST}") == before


def test_an_attempt_that_was_ended_is_added_again(snapshots: Snapshots, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "src")
    (folder / MANIFEST).write_text('{"half')
    added = snapshots.add(folder, content={}, step=1, info={})
    assert MANIFEST not in added.files
    assert snapshots.folder(added.id, tmp_path / "scratch").is_dir()


def test_listing_is_by_step(snapshots: Snapshots, tmp_path: Path) -> None:
    assert snapshots.list() == []
    added = [add(snapshots, tmp_path / f"{step}{w}", step, w) for step in (100, 20, 3) for w in ("aa", "bb")]
    assert snapshots.list() == sorted(added, key=lambda snapshot: (snapshot.step, snapshot.id))


@settings(max_examples=200, **PROPERTY)
@given(one=CONTENTS, other=CONTENTS, step=st.integers(0, 3), other_step=st.integers(0, 3))
def test_ids_are_equal_iff_contents_are(one: dict, other: dict, step: int, other_step: int) -> None:
    same = one == other and step == other_step
    assert (snapshot_id(one, step) == snapshot_id(other, other_step)) == same
    assert snapshot_id(dict(reversed(one.items())), step) == snapshot_id(one, step)


@settings(max_examples=20, **PROPERTY)
@given(files=FILES, content=CONTENTS, step=st.integers(0, 10**9))
def test_random_folders_round_trip(store: Store, files: dict, content: dict, step: int) -> None:
    snapshots = Snapshots(store.child(uuid.uuid4().hex))
    files.pop(MANIFEST, None)
    with tempfile.TemporaryDirectory() as scratch:
        src = Path(scratch, "src")
        src.mkdir()
        for name, data in files.items():
            (src / name).write_bytes(data)
        added = snapshots.add(src, content=content, step=step, info={})
        folder = snapshots.folder(added.id, Path(scratch))
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST} == files
        assert added.bytes == sum(map(len, files.values()))


def test_without_a_manifest_it_is_invisible(snapshots: Snapshots, tmp_path: Path) -> None:
    added, kept = add(snapshots, tmp_path / "src"), add(snapshots, tmp_path / "other", 20)
    snapshots.store.remove(f"{added.id}/{MANIFEST}")
    assert snapshots.list() == [kept]
    with pytest.raises(DamagedError, match=f"no snapshot '{added.id}' in .* holds 1 .{kept.id}"):
        snapshots.get(added.id)
    with pytest.raises(DamagedError):
        snapshots.folder(added.id, tmp_path / "scratch")
    assert add(snapshots, tmp_path / "anew") == added == snapshots.get(added.id)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"w" * 4999, "expected 5000 bytes, found 4999"),
        (b"w" * 4999 + b"x", "expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"),
        (None, "is missing: expected 5000 bytes"),
    ],
)
def test_damaged_weights_are_named(snapshots: Snapshots, tmp_path: Path, data: bytes | None, words: str) -> None:
    added = add(snapshots, tmp_path / "src")
    weights = f"{added.id}/model.safetensors"
    if data is None:
        snapshots.store.remove(weights)
    else:
        snapshots.store.write_bytes(weights, data)
    for _ in range(2):
        with pytest.raises(DamagedError, match=f"model.safetensors .*{words}.*Delete .*{added.id} and start the same"):
            snapshots.folder(added.id, tmp_path / "scratch")
    assert snapshots.folder(added.id, tmp_path / "scratch", verify=False).is_dir()


@pytest.mark.parametrize("manifest", ["", '{"id": "', "[]", "{}", '{"files": {}}', '{"files": {"a": {"size": 1}}}'])
def test_a_damaged_manifest_is_named(snapshots: Snapshots, tmp_path: Path, manifest: str) -> None:
    added = add(snapshots, tmp_path / "src")
    snapshots.store.write_bytes(f"{added.id}/{MANIFEST}", manifest.encode())
    for read in (lambda: snapshots.get(added.id), snapshots.list, lambda: add(snapshots, tmp_path / uuid.uuid4().hex)):
        with pytest.raises(DamagedError, match=f"{added.id}/{MANIFEST} is (not JSON|no manifest).*[Dd]elete"):
            read()


def test_an_altered_manifest_is_found(snapshots: Snapshots, tmp_path: Path) -> None:
    added = add(snapshots, tmp_path / "src")
    rel = f"{added.id}/{MANIFEST}"
    snapshots.store.write_json(rel, json.loads(snapshots.store.read_bytes(rel)) | {"step": 61})
    with pytest.raises(DamagedError, match=f"expected id {added.id}, found"):
        snapshots.get(added.id)


def test_a_damaged_download_is_fetched_again(s3_store: Store, tmp_path: Path) -> None:
    snapshots = Snapshots(s3_store)
    added = add(snapshots, tmp_path / "src")
    weights = snapshots.folder(added.id, tmp_path / "scratch") / "model.safetensors"
    weights.write_bytes(b"cut")
    assert snapshots.folder(added.id, tmp_path / "scratch") == weights.parent
    assert weights.read_bytes() == b"w" * 5000


def test_readers_get_what_they_read_and_files_are_checked_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, scratch, read = Snapshots(store.child("snapshots")), tmp_path / "scratch", []
    folder = checkpoint(tmp_path / "src")
    (folder / "optimizer.pt").write_bytes(b"o" * 9000)
    added = snapshots.add(folder, content={"weights": "aa"}, step=60, info={})
    check = npo_core.timeline.snapshots.file_entry
    monkeypatch.setattr(npo_core.timeline.snapshots, "file_entry", lambda path: read.append(path.name) or check(path))
    seen = []
    for how in ({"whole": False, "weights": False}, {"whole": False}, {"whole": True}, {"whole": True}):
        read.clear()
        there = snapshots.folder(added.id, scratch, **how)
        downloaded = {path.name for path in there.rglob("*") if path.is_file()} - {MANIFEST}
        seen.append((set(read), downloaded if not store.is_local else set(read)))
    weights, state = "model.safetensors", "optimizer.pt"
    assert [new for new, _ in seen] == [{"rng.json"}, {weights}, {state}, set()]
    if not store.is_local:
        everything = {"rng.json", weights, state}
        assert [there for _, there in seen] == [{"rng.json"}, {"rng.json", weights}, everything, everything]
    (there / weights).write_bytes(b"x" * 5000)  # as large, and not what was verified
    if store.is_local:
        with pytest.raises(DamagedError, match=f"{weights} is damaged: expected sha256"):
            snapshots.folder(added.id, scratch, whole=False)
    assert snapshots.folder(added.id, scratch, whole=False, weights=False).is_dir()


def test_finding_by_prefix(snapshots: Snapshots, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no snapshot 'ab' in .* holds 0 \(none\)"):
        snapshots.find("ab")
    ids = [add(snapshots, tmp_path / str(step), step).id for step in range(17)]  # 17 ids share a first digit
    digit = next(id_[0] for id_ in ids if sum(other[0] == id_[0] for other in ids) > 1)
    with pytest.raises(DataError, match=f"'{digit}' begins .* snapshots .*give more digits"):
        snapshots.find(digit)
    with pytest.raises(DataError, match="no snapshot ''"):
        snapshots.find("")


def test_a_full_disk_at_the_manifest_keeps_the_state(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "src")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match=f"The disk behind {folder} is full while writing {MANIFEST}: free"):
            snapshots.add(folder, content={}, step=0, info={})
    assert snapshots.list() == []
    assert snapshots.add(folder, content={}, step=0, info={}).bytes == 5002


def test_links_are_refused(snapshots: Snapshots, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "src")
    (folder / "link").symlink_to(folder / "model.safetensors")
    with pytest.raises(DataError, match="src/link is a link"):
        snapshots.add(folder, content={}, step=0, info={})


def test_a_base_lies_beside_its_adapters(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are checked, and a base is downloaded once."""
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    workspace = Workspace(store.uri)
    snapshots = workspace.timeline.snapshots
    base = add(snapshots, tmp_path / "base", 0)
    adapters = [
        snapshots.add(checkpoint(tmp_path / "src"), content={"step": str(step)}, step=step, info={"base": base.id})
        for step in (20, 40)
    ]
    first = workspace.snapshot_folder(adapters[0].id)
    weights = first.parent / base.id / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert workspace.snapshot_folder(adapters[1].id).parent == first.parent
    assert weights.stat().st_mtime_ns == written
    store.write_bytes(f"snapshots/{base.id}/model.safetensors", b"other")
    weights.write_bytes(b"other")
    with pytest.raises(DamagedError, match=f"{base.id}/model.safetensors is damaged"):
        workspace.snapshot_folder(adapters[0].id)
