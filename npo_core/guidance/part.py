"""One Parquet file of a cache in the making, hashed while it is written."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import AbstractContextManager

from npo_core.guidance.info import FileEntry
from npo_core.guidance.schema import group_is_full, parquet_writer, rows_to_table
from npo_core.guidance.trajectory import Trajectory
from npo_core.timeline.disk import make_folder
from npo_core.timeline.failures import as_storage_errors
from npo_core.timeline.store import Store


class PartWriter:
    """Rows of one file; holds one row group in memory. Raises StorageError where the storage refuses."""

    def __init__(self, store: Store, name: str) -> None:
        self.rows = 0
        self._store = store
        self._name = name
        self._groups = 0
        with self._storing():
            self._sink = HashingFile(_create(store, name))
            self._parquet = parquet_writer(self._sink)
        self._buffer: list[Trajectory] = []
        self._tokens = 0

    def add(self, row: Trajectory) -> None:
        if self.rows == 0:
            self._first = row.prompt_id
        self._last = row.prompt_id
        self.rows += 1
        self._buffer.append(row)
        self._tokens += len(row.token_ids)
        if group_is_full(len(self._buffer), self._tokens):
            self._flush()

    def close(self) -> FileEntry:
        self._flush()
        with self._storing():
            self._parquet.close()
            self._sink.close()
        return FileEntry(
            name=self._name,
            rows=self.rows,
            row_groups=self._groups,
            bytes=self._sink.bytes,
            sha256=self._sink.sha256(),
            first=self._first,
            last=self._last,
        )

    def _flush(self) -> None:
        if self._buffer:
            with self._storing():
                self._parquet.write_table(rows_to_table(self._buffer))
            self._groups += 1
            self._buffer, self._tokens = [], 0

    def _storing(self) -> AbstractContextManager[None]:
        return as_storage_errors(self._store.uri, self._name, local=self._store.is_local)


def _create(store: Store, name: str):
    if store.is_local:
        make_folder(store.local(name).parent)
        return open(store.local(name), "wb")
    return store.fs.open(store.path(name), "wb")


class HashingFile(io.RawIOBase):
    """Passes bytes on to a file and hashes them on the way, so that no file is read again for its SHA-256."""

    def __init__(self, file) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        view = memoryview(data)
        self._file.write(view)
        self._hash.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def close(self) -> None:
        if not self.closed:
            if isinstance(self._file, io.BufferedWriter):  # on a local disk: cache.json must not outlive its files
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            super().close()

    def sha256(self) -> str:
        return self._hash.hexdigest()
