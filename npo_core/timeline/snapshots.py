"""Snapshots: complete training states, immutable, named by their content."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from npo_core.errors import DamagedError, DataError
from npo_core.timeline.disk import write_atomic
from npo_core.timeline.failures import as_storage_errors
from npo_core.timeline.store import AT_ONCE, Store, json_bytes

MANIFEST = "manifest.json"
PRUNED = "pruned.json"  # beside the manifest: files that were deleted on purpose
_ID_DIGITS = 16


@dataclass(frozen=True)
class FileEntry:
    """A file of a snapshot: `size` in bytes and `sha256` in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """The complete training state after step `step`.

    Example:
        Snapshot(id="3f2a9c0d11e0b7aa", step=60, files={"model.safetensors": FileEntry(1048576, "ab12...")},
                 content={"weights": "cd34...", "cursor": "ef56..."}, info={"tokenizer": "77aa..."})
    """

    id: str  # first 16 hex digits of the hash of content and step
    step: int
    files: dict[str, FileEntry]  # by path relative to the snapshot's folder
    content: dict[str, str]  # part of the state -> hex digest of its values
    info: dict[str, Any]  # what else readers check: fingerprints of model and tokenizer

    @property
    def bytes(self) -> int:
        """The size of all files, in bytes."""
        return sum(entry.size for entry in self.files.values())


SnapshotList = list[Snapshot]  # inside the class below `list` is a method


class Snapshots:
    """The snapshots in a folder: `<id>/` with the state's files and manifest.json, which is written last."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(
        self,
        folder: Path,
        *,
        content: Mapping[str, str],
        step: int,
        info: Mapping[str, Any],
        known: Mapping[str, FileEntry] | None = None,
    ) -> Snapshot:
        """Moves a local folder in as the snapshot after `step`; `folder` is gone afterwards.

        `content` maps each part of the state (weights, optimizer, cursor, ...) to a digest of its values; the id comes
        from it and `step` alone. A snapshot with this id that is complete already is returned and nothing is written.
        `known`: size and sha256 of files, by name, that whoever wrote them hashed on the way; the others are read.
        Raises DataError on links in the folder, StorageError where the store refuses.
        """
        id_ = snapshot_id(content, step)
        if self.store.exists(f"{id_}/{MANIFEST}"):
            there = self.get(id_)
            if not self.pruned(id_):
                shutil.rmtree(folder, ignore_errors=True)
                return there
            self.store.remove(id_)  # it was made anew and is whole again
        with as_storage_errors(str(folder), MANIFEST, local=True):
            snapshot = Snapshot(id_, step, _describe(folder, known or {}), dict(content), dict(info))
            (folder / MANIFEST).write_bytes(json_bytes(asdict(snapshot)))
        self.store.put_folder(folder, id_, MANIFEST)
        return snapshot

    def get(self, id_: str) -> Snapshot:
        """The snapshot with this id. Raises DamagedError if it is unknown or its manifest is damaged."""
        manifest = self.store.read_json(f"{id_}/{MANIFEST}", default=None)
        if manifest is None:
            raise DamagedError(self._unknown(id_))
        return self._parsed(id_, manifest)

    def find(self, prefix: str) -> Snapshot:
        """The one snapshot whose id starts with `prefix`. Raises DataError if it is not one."""
        matches = [id_ for id_ in self._ids() if prefix and id_.startswith(prefix)]
        if not matches:
            raise DataError(self._unknown(prefix))
        if len(matches) > 1:
            raise DataError(f"'{prefix}' begins {len(matches)} snapshots ({_few(matches)}): give more digits.")
        return self.get(matches[0])

    def prune(self, id_: str, files: Iterable[str]) -> None:
        """Deletes files of a snapshot on purpose; its manifest stays, and says what it was.

        What is deleted is written down first, so that a crash in between leaves no damage: the next call goes on.
        """
        gone = self.pruned(id_) | set(files)
        self.store.write_json(f"{id_}/{PRUNED}", {"files": sorted(gone)})
        for name in sorted(gone):
            self.store.remove(f"{id_}/{name}")

    def pruned(self, id_: str) -> set[str]:
        """The files of a snapshot that were deleted on purpose; empty: it is whole."""
        return set(self.store.read_json(f"{id_}/{PRUNED}", default={"files": []})["files"])

    def folder(self, id_: str, scratch: Path, verify: bool = True, whole: bool = True, weights: bool = True) -> Path:
        """A local folder with the files of a snapshot that a reader needs, downloaded to `scratch` if need be.

        With `verify`, the size of each is checked, and the sha256 once on this machine. `whole`: the reader trains on
        it and needs the optimizer's state as well. `weights`: it needs these; without, tokenizer and pool alone.
        Raises DamagedError naming the first file that differs, DataError where `npo prune` deleted a file that is
        needed.
        """
        snapshot, pruned = self.get(id_), self.pruned(id_)
        unread = {name for name in snapshot.files if not needed(name, whole, weights)}
        if lacking := sorted(pruned - unread):
            raise DataError(
                f"{self.store.uri}/{id_} (step {snapshot.step}) was pruned, {_few(lacking, 2)} of it is gone: choose a "
                "step that `npo prune WORKSPACE` shows as whole, or start the run again in another workspace."
            )
        snapshot = without(snapshot, pruned | unread)
        names, marker = [*snapshot.files, MANIFEST], scratch / f"{id_}.verified.json"
        folder = self.store.fetch(id_, scratch, names)
        damage = _first_damage(folder, snapshot, marker) if verify else None
        if damage and not self.store.is_local:
            # The download may be older than a repair in S3, so it is the copy that is doubted first.
            shutil.rmtree(folder)
            folder = self.store.fetch(id_, scratch, names)
            damage = _first_damage(folder, snapshot, marker)
            if damage:
                shutil.rmtree(folder)
        if damage:
            raise DamagedError(f"{damage} {self._remedy(id_)}")
        return folder

    def wrong_size(self, id_: str) -> str | None:
        """A sentence on the first file of a local snapshot that is missing or of another size, or on its manifest."""
        try:
            snapshot = without(self.get(id_), self.pruned(id_))
        except DamagedError as error:
            return str(error)
        return _first_size(self.store.local(id_), snapshot)

    def list(self) -> SnapshotList:
        """All complete snapshots, sorted by step and id."""
        return sorted(map(self.get, self._ids()), key=lambda snapshot: (snapshot.step, snapshot.id))

    def _ids(self) -> Sequence[str]:
        return [id_ for id_ in self.store.list() if self.store.exists(f"{id_}/{MANIFEST}")]

    def _parsed(self, id_: str, manifest: Any) -> Snapshot:
        try:
            files = {name: FileEntry(**entry) for name, entry in manifest["files"].items()}
            snapshot = Snapshot(**{**manifest, "files": files})
            computed = snapshot_id(snapshot.content, snapshot.step)
        except (TypeError, KeyError, AttributeError) as error:
            raise DamagedError(
                f"{self.store.uri}/{id_}/{MANIFEST} is no manifest ({error!r}). {self._remedy(id_)}"
            ) from error
        if not id_ == snapshot.id == computed:
            raise DamagedError(
                f"{self.store.uri}/{id_}/{MANIFEST} is damaged: expected id {id_}, found {snapshot.id} and content "
                f"that makes {computed}. {self._remedy(id_)}"
            )
        return snapshot

    def _unknown(self, id_: str) -> str:
        ids = self._ids()
        return (
            f"There is no snapshot '{id_}' in {self.store.uri}, which holds {len(ids)} ({_few(ids) or 'none'}): "
            f"give one of them, or start the command again that makes it."
        )

    def _remedy(self, id_: str) -> str:
        return (
            f"Delete {self.store.uri}/{id_} and start the same command again: "
            f"the stage that wrote it makes it anew from the snapshot before."
        )


def of_optimizer(name: str) -> bool:
    """Whether a file of a snapshot holds the optimizer's state, which only training reads."""
    return name.split("/")[0].startswith("optimizer")


def of_weights(name: str) -> bool:
    """Whether a file of a snapshot holds weights, of a model or of adapters, whole or in parts."""
    return name.endswith(".safetensors")


def needed(name: str, whole: bool, weights: bool) -> bool:
    """Whether a reader of a snapshot needs a file."""
    return (whole or not of_optimizer(name)) and (weights or not of_weights(name))


def without(snapshot: Snapshot, files: set[str]) -> Snapshot:
    """A snapshot as if it had never had some files."""
    return replace(snapshot, files={name: entry for name, entry in snapshot.files.items() if name not in files})


def snapshot_id(content: Mapping[str, str], step: int) -> str:
    """The id of the snapshot with these parts (name -> hex digest) after `step`: 16 hex digits."""
    canonical = json.dumps({"content": dict(content), "step": step}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_DIGITS]


def _describe(folder: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Size and digest of every file in a folder, those that are not known read once. Raises DataError on a link."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise DataError(f"{path} is a link, and a snapshot holds its files itself: copy the file there.")
        if path.is_file() and name != MANIFEST:  # a manifest here is left from an attempt that was ended
            entries[name] = known[name] if name in known else file_entry(path)
    return entries


def file_entry(path: Path) -> FileEntry:
    """Size and digest of a file, read once."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _first_damage(folder: Path, snapshot: Snapshot, marker: Path) -> str | None:
    """A sentence on the first file that is not as its manifest says, sizes before digests. Raises StorageError.

    `marker` holds what files looked like when their digests were right: what still looks so is not read again.
    """
    with as_storage_errors(str(folder), "", local=True):
        if damage := _first_size(folder, snapshot):
            return damage
        now = {name: _look(folder / name) for name in snapshot.files}
        before = _read_marker(marker)
        new = {name: entry for name, entry in snapshot.files.items() if before.get(name) != now[name]}
        if damage := _first_digest(folder, replace(snapshot, files=new)):
            return damage
        if new:
            _write_marker(marker, before | {name: now[name] for name in new})
    return None


def _look(path: Path) -> list[int]:
    """What changes with a file: its inode, its size in bytes, and nanoseconds of its last writing and change."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_marker(marker: Path) -> dict[str, list[int]]:
    """Of the files that this machine verified, what they looked like; another machine's view is none."""
    try:
        held = json.loads(marker.read_bytes())
        return held["files"] if held["machine"] == platform.node() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_marker(marker: Path, files: dict[str, list[int]]) -> None:
    """Best effort: without it files are only read once more."""
    with suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(marker, json_bytes({"machine": platform.node(), "files": files}))


def _first_size(folder: Path, snapshot: Snapshot) -> str | None:
    for name, expected in snapshot.files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing: expected {expected.size} bytes."
        if (size := path.stat().st_size) != expected.size:
            return f"{path} is damaged: expected {expected.size} bytes, found {size}."
    return None


def _first_digest(folder: Path, snapshot: Snapshot) -> str | None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        digests = pool.map(lambda name: file_entry(folder / name).sha256, snapshot.files)
        for (name, expected), found in zip(snapshot.files.items(), digests, strict=True):
            if found != expected.sha256:
                return f"{folder / name} is damaged: expected sha256 {expected.sha256}, found {found}."
    return None


def _few(ids: Iterable[str], most: int = 5) -> str:
    shown = list(ids)
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
