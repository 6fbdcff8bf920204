"""Writes a guidance cache: sorted rows in, Parquet files and, last, `cache.json` out."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager

import xxhash
from pydantic import ValidationError

from npo_core.errors import DataError
from npo_core.guidance.index import INDEX_FILE, IndexWriter, Span
from npo_core.guidance.info import INFO_FILE, CacheInfo, FileEntry, cache_id
from npo_core.guidance.parquet import ROWS_PER_FILE, RowGroupWriter
from npo_core.guidance.trajectory import Trajectory
from npo_core.timeline.disk import make_folder
from npo_core.timeline.failures import as_storage_errors
from npo_core.timeline.store import Store

_PART_NAME = re.compile(r"part-\d{5,}\.parquet")


class CacheWriter:
    """Streams trajectories, sorted by prompt id, into the folder `store`; holds one row group in memory.

    The same rows give the same bytes and the same id. Nothing is readable before `finish` has written `cache.json`.

    Raises DataError when the folder already holds a complete cache, and for a row that is unsound, not correct, out of
    order or there twice.
    """

    def __init__(self, store: Store, *, rows_per_file: int = ROWS_PER_FILE) -> None:
        if store.exists(INFO_FILE):
            raise DataError(f"{store.uri} already holds a complete guidance cache: write to another folder.")
        for name in store.list():
            if _PART_NAME.fullmatch(name) or name == INDEX_FILE:  # of a writer that was killed
                store.remove(name)
        self._store = store
        self._rows_per_file = rows_per_file
        self._part: PartWriter | None = None
        self._files: list[FileEntry] = []
        self._rows = RowsDigest()
        self._index = IndexWriter()
        self._last = ("", -1)
        self._prompts = 0
        self._ends: set[int] = set()
        self._guides: set[tuple[str, int]] = set()
        self._reward_counts: set[int] = set()

    def write(self, trajectories: Iterable[Trajectory]) -> None:
        """Append rows; their prompt ids, and the samples of one prompt, must rise, over all calls together."""
        for row in trajectories:
            self._check(row)
            if self._part is None:
                self._part = PartWriter(self._store, f"part-{len(self._files):05d}.parquet", self._index)
            self._part.add(row)
            self._rows.add(row.digest())
            if self._part.rows >= self._rows_per_file:
                self._close_part()

    def finish(self, **facts) -> CacheInfo:
        """Write `cache.json` and return it; `facts` are the fields of CacheInfo that the rows do not tell.

        Raises DataError when the facts contradict the rows: a row without end-of-sequence token, an unnamed guide,
        another number of rewards than reward names, more rows than prompts asked.
        """
        self._close_part()
        solved = {} if self._prompts == self._rows.rows else {"prompts_solved": self._prompts}
        info = draft_info(self._rows, self._files, facts | solved)
        self._check_facts(info)
        if self._files:
            with as_storage_errors(self._store.uri, INDEX_FILE, local=self._store.is_local):
                info = info.model_copy(update={"index": self._index.save(self._store)})
        self._store.write_json(INFO_FILE, info.model_dump(mode="json"))
        return info

    def _check(self, row: Trajectory) -> None:
        row.validate()
        if row.outcome != "correct":
            raise DataError(f"Prompt {row.prompt_id}: a cache holds correct trajectories, this is {row.outcome!r}.")
        key = (row.prompt_id, row.sample)
        if key == self._last:
            raise DataError(f"Prompt {row.prompt_id} comes twice: a guidance cache holds a sample of a prompt once.")
        if key < self._last:
            raise DataError(f"Prompt {row.prompt_id} comes after {self._last[0]}: write rows sorted by prompt id.")
        self._prompts += row.prompt_id != self._last[0]
        self._last = key
        self._ends.add(int(row.token_ids[-1]))
        self._guides.add((row.guide, row.guide_step))
        self._reward_counts.add(len(row.rewards))

    def _check_facts(self, info: CacheInfo) -> None:
        if ends := self._ends - info.eos_token_ids:
            raise DataError(
                f"Guidance rows end with the tokens {sorted(ends)[:5]}, which are no end-of-sequence token "
                f"({sorted(info.eos_token_ids)}): keep only completions that ended by themselves, EOS included."
            )
        if guides := self._guides - {(guide.id, guide.step) for guide in info.guides}:
            raise DataError(f"Guidance rows name the guides {sorted(guides)}, which `guides` does not list.")
        if counts := self._reward_counts - {len(info.reward_names)}:
            raise DataError(f"Guidance rows hold {sorted(counts)} rewards, but reward_names is {info.reward_names}.")
        if self._prompts > info.prompts_asked:
            raise DataError(f"prompts_asked is {info.prompts_asked}, must be at least the {self._prompts} written.")

    def _close_part(self) -> None:
        if self._part is not None:
            self._files.append(self._part.close())
            self._part = None


class RowsDigest:
    """Count and running hash of row digests in order of prompt id."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add(self, digest: bytes) -> None:
        """Take the digest of one more row."""
        self.rows += 1
        self._hash.update(digest)

    def digest(self) -> bytes:
        """The digest of all rows so far, 32 bytes."""
        return self._hash.digest()


def draft_info(rows: RowsDigest, files: list[FileEntry], facts: dict) -> CacheInfo:
    """The CacheInfo of these rows with its id; raises DataError when a fact is missing, unknown or of a wrong kind."""
    try:
        info = CacheInfo(id="", rows=rows.rows, files=files, **facts)
    except ValidationError as error:
        raise DataError(f"The facts of a guidance cache are incomplete: {error}") from error
    return info.model_copy(update={"id": cache_id(rows.digest(), info)})


class PartWriter:
    """One Parquet file of a cache in the making. Raises StorageError where the storage refuses."""

    def __init__(self, store: Store, name: str, index: IndexWriter) -> None:
        self.rows = 0
        self._index = index
        self._store = store
        self._name = name
        with self._storing():
            self._sink = HashingFile(_create(store, name))
            self._parquet = RowGroupWriter(self._sink)
        self._groups = 0

    def add(self, row: Trajectory) -> None:
        """Write a row; rows come sorted by prompt id."""
        if self.rows == 0:
            self._first = row.prompt_id
        self._last = row.prompt_id
        self.rows += 1
        self._index.add(row.prompt_id)
        with self._storing():
            self._parquet.add(row)
            self._end_group()

    def _end_group(self) -> None:
        if self._parquet.groups > self._groups:
            self._groups = self._parquet.groups
            self._index.end_group(self._sink.span())

    def close(self) -> FileEntry:
        """End the file; its entry for `cache.json`."""
        with self._storing():
            self._parquet.flush()
            self._end_group()
            self._parquet.close()
            self._sink.close()
        return FileEntry(
            name=self._name,
            rows=self.rows,
            row_groups=self._parquet.groups,
            bytes=self._sink.bytes,
            sha256=self._sink.sha256(),
            first=self._first,
            last=self._last,
        )

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
        self._hash, self._of_span = hashlib.sha256(), xxhash.xxh3_64()
        self.bytes = self._start = 0

    def writable(self) -> bool:
        """True: pyarrow asks."""
        return True

    def write(self, data) -> int:
        """Write and hash; the number of bytes."""
        view = memoryview(data)
        self._file.write(view)
        self._hash.update(view)
        self._of_span.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def span(self) -> Span:
        """The bytes since the last call: where they begin, how many they are, and their hash."""
        start, self._start = self._start, self.bytes
        digest = self._of_span.intdigest()
        self._of_span.reset()
        return start, self.bytes - start, digest

    def tell(self) -> int:
        """The bytes written so far."""
        return self.bytes

    def close(self) -> None:
        """Close; on a local disk everything has reached it then."""
        if not self.closed:
            if isinstance(self._file, io.BufferedWriter):  # on a local disk: cache.json must not outlive its files
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            super().close()

    def sha256(self) -> str:
        """The hex digest of all that was written."""
        return self._hash.hexdigest()
