"""Local files that are there whole or not at all, also after SIGKILL or a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

TEMP_PREFIX = ".tmp-"
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # of exFAT, or of FUSE
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def temp_beside(path: Path) -> Path:
    """A fresh temporary path in the folder of `path`, named after this process."""
    pid = os.getpid()
    return path.with_name(f"{TEMP_PREFIX}{_HOST}-{pid}-{_started(pid)}-{uuid.uuid4().hex[:8]}")


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: readers see the old content or all of the new. Raises OSError."""
    _through_temp(path, data, os.replace)


def copy_atomic(file: Path, path: Path) -> None:
    """Writes a file's content to `path` piece by piece, as `write_atomic` does. Raises OSError."""
    make_folder(path.parent)
    temp = temp_beside(path)
    try:
        shutil.copyfile(file, temp)
        _sync(temp, os.O_RDONLY)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_atomic(path: Path, data: bytes) -> bool:
    """Writes `data` to `path` unless something is there; whether it did. Raises OSError."""
    try:
        _through_temp(path, data, _link)
    except FileExistsError:
        return False
    return True


def place_folder(src: Path, target: Path, last: str) -> None:
    """Moves `src` to `target` in one rename; a `target` without the file `last` is torn and makes room.

    Where `target` is complete already, `src` is only removed. Raises OSError.
    """
    if not (target / last).exists():
        make_folder(target.parent)
        discard(target)
        _sync_tree(src)
        _rename_folder(src, target, last)
        sync_folder(target.parent)
    discard(src)


def discard(path: Path) -> None:
    """Removes a file or folder, which is gone for readers at once. Absent is fine."""
    gone = temp_beside(path)
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    _delete(gone)


def remove_dead_temps(folder: Path) -> list[str]:
    """Removes temporary files and folders below `folder` whose writer has ended; their paths relative to it."""
    removed = []
    for root, dirs, files in os.walk(folder):
        temps = [name for name in dirs + files if name.startswith(TEMP_PREFIX)]
        dirs[:] = [name for name in dirs if name not in temps]
        for path in (Path(root, name) for name in temps):
            if not _writer_lives(path.name):
                _delete(path)
                removed.append(path.relative_to(folder).as_posix())
    return sorted(removed)


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents, each recorded in its parent on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Forces the names in `folder` onto the disk."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _through_temp(path: Path, data: bytes, into_place: Callable[[Path, Path], None]) -> None:
    make_folder(path.parent)
    temp = temp_beside(path)
    try:
        with open(temp, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        into_place(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    sync_folder(path.parent)


def _link(temp: Path, path: Path) -> None:
    # A hard link appears with its full content and, unlike a rename, never replaces what is there.
    try:
        os.link(temp, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with FileLock(path.with_name(".create.lock")):  # of all who create something here
            if path.exists():
                raise FileExistsError(path) from None
            os.replace(temp, path)


def _rename_folder(src: Path, target: Path, last: str) -> None:
    try:
        os.rename(src, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            _copy_folder(src, target, last)
        elif not (target / last).exists():  # otherwise another writer of the same content was first
            raise


def _copy_folder(src: Path, target: Path, last: str) -> None:
    temp = temp_beside(target)
    try:
        _copy_tree(src, temp)
        _sync_tree(temp)
        _rename_folder(temp, target, last)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _copy_tree(src: Path, target: Path) -> None:
    # Unlike shutil.copytree it lets the first OSError through, whose errno says that the disk is full.
    for root, _, files in os.walk(src):
        folder = target / Path(root).relative_to(src)
        folder.mkdir()
        for name in files:
            shutil.copy2(Path(root, name), folder / name)


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root, name), os.O_RDONLY)
        sync_folder(Path(root))


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _writer_lives(name: str) -> bool:
    """Whether the process that a temporary name speaks of still runs on this host."""
    host, pid, started = (name.removeprefix(TEMP_PREFIX).split("-") + ["", ""])[:3]
    return host == _HOST and pid.isdigit() and _started(int(pid)) == started


def _started(pid: int) -> str:
    """The start time of a process in clock ticks since boot, '' if it has ended: pids alone are used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self").exists() else _started_without_proc(pid)
    fields = stat.rpartition(")")[2].split()  # the command name before it may hold spaces
    return "" if fields[0] == "Z" else fields[19]


def _started_without_proc(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "0"
    return "0"
