"""Folders and files that two workspaces share: on one disk, in S3, and between the two."""

import os
import uuid
from pathlib import Path

import pytest

from npo_core.errors import DamagedError
from npo_core.timeline import Store, share_file, share_folder
from tests.timeline.conftest import BUCKET

FILES = {"model.bin": b"weights" * 1000, "deep/er.json": b"{}", "manifest.json": b"last"}


@pytest.fixture(params=["local to local", "local to s3", "s3 to local", "s3 to s3"])
def pair(request, s3_endpoint, tmp_path: Path) -> tuple[Store, Store]:
    """Two stores, the first with a folder."""
    made = {
        "local": lambda name: Store(tmp_path / name),
        "s3": lambda name: Store(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}/{name}"),
    }
    source, target = (made[kind](name) for kind, name in zip(request.param.split(" to "), ("old", "new"), strict=True))
    for name, data in FILES.items():
        source.write_bytes(f"snapshots/a/{name}", data)
    return source, target


def test_a_folder_is_there_with_all_it_holds(pair):
    source, target = pair
    share_folder(source, target, "snapshots/a", "manifest.json")
    assert {name: target.read_bytes(f"snapshots/a/{name}") for name in FILES} == FILES
    assert target.list("snapshots") == ["a"] and source.list("snapshots") == ["a"]
    source.remove("snapshots/a")
    assert target.read_bytes("snapshots/a/model.bin") == FILES["model.bin"]


def test_what_is_complete_stays_and_what_is_torn_is_made_anew(pair):
    source, target = pair
    target.write_bytes("snapshots/a/model.bin", b"torn")
    share_folder(source, target, "snapshots/a", "manifest.json")
    assert target.read_bytes("snapshots/a/model.bin") == FILES["model.bin"]
    source.remove("snapshots/a")
    share_folder(source, target, "snapshots/a", "manifest.json")


def test_a_folder_without_its_last_file_is_refused(pair):
    source, target = pair
    source.remove("snapshots/a/manifest.json")
    with pytest.raises(DamagedError, match=r"snapshots/a holds no manifest\.json"):
        share_folder(source, target, "snapshots/a", "manifest.json")
    assert target.list("snapshots") == []


def test_a_file_is_there_under_another_name(pair):
    source, target = pair
    for _ in range(2):
        share_file(source, target, "snapshots/a/model.bin", "other/b.bin")
    assert target.read_bytes("other/b.bin") == FILES["model.bin"] and target.list("other") == ["b.bin"]


def test_on_one_disk_nothing_is_copied(tmp_path):
    source, target = Store(tmp_path / "old"), Store(tmp_path / "new")
    source.write_bytes("a/x", b"1")
    share_folder(source, target, "a", "x")
    share_file(source, target, "a/x", "b/x")
    assert source.local("a/x").stat().st_nlink == 3
    target.write_bytes("a/x", b"2")  # a write replaces the name, not what it names
    assert source.read_bytes("a/x") == b"1"


def test_on_a_disk_that_is_full_nothing_half_shared_is_left(tmp_path, monkeypatch):
    source, target = Store(tmp_path / "old"), Store(tmp_path / "new")
    source.write_bytes("a/x", b"1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    from npo_core.errors import StorageError

    with pytest.raises(StorageError, match="is full"):
        share_folder(source, target, "a", "x")
    assert target.list() == []
