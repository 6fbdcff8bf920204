"""Folders that two workspaces share: hard links on one disk, copies inside S3, plain copies everywhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from npo_core.errors import DamagedError
from npo_core.timeline import disk
from npo_core.timeline.store import Store


def share_folder(source: Store, target: Store, rel: str, last: str) -> None:
    """Let `target` have the folder `rel` of `source`, whose files never change, with the file `last` at the end.

    On one file system the files are hard links and take no room; where links are refused they are copied. Within S3 the
    server copies. A complete `rel` in `target` stays as it is. Raises DamagedError where `source` has no complete one,
    StorageError where a disk or S3 refuses.
    """
    if target.exists(f"{rel}/{last}"):
        return
    if not source.exists(f"{rel}/{last}"):
        raise DamagedError(f"{source.uri}/{rel} holds no {last}: it was never finished, or was deleted.")
    if not target.is_local:
        _into_s3(source, target, rel, last)
        return
    with target.failures(rel):
        temp = disk.temp_beside(target.local(rel))
        disk.make_folder(temp.parent)
        try:
            _link_or_download(source, rel, temp)
            disk.place_folder(temp, target.local(rel), last)
        finally:
            shutil.rmtree(temp, ignore_errors=True)


def share_file(source: Store, target: Store, rel: str, to: str | None = None) -> None:
    """Let `target` have the file `rel` of `source`, as `to` where that is given; one that is there stays."""
    to = to or rel
    if target.exists(to):
        return
    if not (source.is_local and target.is_local):
        target.write_bytes(to, source.read_bytes(rel))
        return
    path = target.local(to)
    with target.failures(to):
        disk.make_folder(path.parent)
        temp = disk.temp_beside(path)
        try:
            _link(source.local(rel), temp)
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        disk.sync_folder(path.parent)


def _into_s3(source: Store, target: Store, rel: str, last: str) -> None:
    for name in sorted(_names(source, rel), key=lambda name: name == last):
        with target.failures(f"{rel}/{name}"):
            if source.is_local:
                target.fs.put_file(source.path(f"{rel}/{name}"), target.path(f"{rel}/{name}"))
            else:
                target.fs.cp_file(source.path(f"{rel}/{name}"), target.path(f"{rel}/{name}"))


def _names(source: Store, rel: str) -> list[str]:
    """The files below a folder, by path relative to it."""
    if source.is_local:
        folder = source.local(rel)
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    full = source.path(rel)
    with source.failures(rel):
        return sorted(file.removeprefix(full).lstrip("/") for file in source.fs.find(full))


def _link_or_download(source: Store, rel: str, temp: Path) -> None:
    for name in _names(source, rel):
        path = temp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_local:
            _link(source.local(f"{rel}/{name}"), path)
        else:
            with source.failures(f"{rel}/{name}"):
                source.fs.get_file(source.path(f"{rel}/{name}"), str(path))


def _link(file: Path, path: Path) -> None:
    try:
        os.link(file, path)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one that knows no links or allows no more
        shutil.copyfile(file, path)
