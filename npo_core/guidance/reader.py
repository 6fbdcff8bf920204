"""Reads chosen row groups of a Parquet file, from a disk or in few, concurrent byte ranges from an object store."""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from npo_core.errors import DamagedError
from npo_core.timeline.failures import as_storage_errors, s3_code
from npo_core.timeline.store import Store

BATCH_TOKENS = 262_144  # decoded at a time: 2 MB of values, so that long completions cost no more memory
MAX_HOLE = 256 * 1024  # bytes: below this, reading on is cheaper than another request
MAX_SLAB = 32 * 1024 * 1024  # bytes of one file held at a time when reading from an object store


@dataclass(slots=True)
class ReadCount:
    """What was read: files opened, row groups decoded, and their compressed bytes (footers not counted)."""

    files: int = 0
    row_groups: int = 0
    bytes: int = 0


@contextmanager
def reading(store: Store, name: str, remedy: str) -> Iterator[None]:
    """Turn what can go wrong with one file into DamagedError (with the remedy) or StorageError."""
    with as_storage_errors(store.uri, name, local=store.is_local):
        try:
            yield
        except FileNotFoundError as error:
            raise DamagedError(f"{store.uri}: the file {name} is missing. {remedy}") from error
        except (pa.ArrowException, ValueError, KeyError, OSError) as error:
            if _is_refusal(error):
                raise
            raise DamagedError(f"{store.uri}: the file {name} cannot be read ({error}). {remedy}") from error


def _is_refusal(error: Exception) -> bool:
    """Whether the storage failed; Arrow reports broken content as an OSError too, but one without a number."""
    if isinstance(error, PermissionError | TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and bool(error.errno or s3_code(error))


def read_footer(store: Store, name: str) -> pq.FileMetaData:
    """The metadata of a Parquet file; one or two small reads."""
    with store.fs.open(store.path(name), "rb", cache_type="none") as file:
        return pq.read_metadata(file)


def touched_groups(footer: pq.FileMetaData, wanted: Sequence[str] | None) -> list[int]:
    """Indexes of the row groups whose prompt-id range holds one of `wanted` (sorted); all of them for None."""
    groups = range(footer.num_row_groups)
    if wanted is None:
        return list(groups)
    return [group for group in groups if _holds_one(wanted, *_bounds(footer, group))]


def between(wanted: Sequence[str], first: str, last: str) -> Sequence[str]:
    """Those of `wanted` (sorted) that lie in [first, last]."""
    return wanted[bisect_left(wanted, first) : bisect_right(wanted, last)]


def _holds_one(wanted: Sequence[str], first: str, last: str) -> bool:
    place = bisect_left(wanted, first)
    return place < len(wanted) and wanted[place] <= last


def _bounds(footer: pq.FileMetaData, group: int) -> tuple[str, str]:
    statistics = footer.row_group(group).column(0).statistics
    if statistics is None or not statistics.has_min_max:
        raise ValueError(f"row group {group} has no statistics on prompt_id")
    return statistics.min, statistics.max


def read_groups(
    store: Store,
    name: str,
    footer: pq.FileMetaData,
    groups: Sequence[int],
    *,
    columns: list[str] | None = None,
    count: ReadCount | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of these row groups, in order, in batches of about `BATCH_TOKENS` tokens.

    From a disk only the named columns are read; from elsewhere whole row groups, `MAX_SLAB` bytes at a time.
    """
    if not groups:
        return
    ranges = [_byte_range(footer, group) for group in groups]
    if count is not None:
        count.files += 1
        count.row_groups += len(groups)
        count.bytes += sum(stop - start for start, stop in ranges)
    if store.is_local:
        yield from _decode(store.path(name), footer, groups, columns)
        return
    for slab in _slabs(groups, ranges):
        source = fetch_ranges(store, name, footer, [_byte_range(footer, group) for group in slab])
        yield from _decode(source, footer, slab, columns)


def _decode(source, footer: pq.FileMetaData, groups: Sequence[int], columns) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(source, metadata=footer, pre_buffer=False) as parquet:
        yield from parquet.iter_batches(_batch_rows(footer), row_groups=list(groups), columns=columns)


def _batch_rows(footer: pq.FileMetaData) -> int:
    """How many rows of this file hold about `BATCH_TOKENS` tokens, judged by its first row group."""
    first = footer.row_group(0)
    chunks = map(first.column, range(first.num_columns))
    tokens = next(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith("token_ids"))
    return max(1, BATCH_TOKENS * first.num_rows // tokens)


def _byte_range(footer: pq.FileMetaData, group: int) -> tuple[int, int]:
    """Where a row group's column chunks lie; they are contiguous."""
    row_group = footer.row_group(group)
    chunks = [row_group.column(i) for i in range(row_group.num_columns)]
    # A dictionary page, where there is one, comes before the data pages.
    starts = [c.dictionary_page_offset if c.has_dictionary_page else c.data_page_offset for c in chunks]
    return min(starts), max(start + c.total_compressed_size for start, c in zip(starts, chunks, strict=True))


def _slabs(groups: Sequence[int], ranges: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Runs of row groups that together hold at most `MAX_SLAB` bytes (or are one group)."""
    slab: list[int] = []
    held = 0
    for group, (start, stop) in zip(groups, ranges, strict=True):
        if slab and held + stop - start > MAX_SLAB:
            yield slab
            slab, held = [], 0
        slab.append(group)
        held += stop - start
    if slab:
        yield slab


def fetch_ranges(store: Store, name: str, footer: pq.FileMetaData, ranges: Iterable[tuple[int, int]]) -> RangesFile:
    """The file with only these byte ranges present; near ones are joined, all are requested together."""
    joined = join_ranges(ranges, MAX_HOLE)
    starts, stops = [start for start, _ in joined], [stop for _, stop in joined]
    blocks = store.fs.cat_ranges([store.path(name)] * len(joined), starts, stops, on_error="raise")
    return RangesFile(starts, blocks)


def join_ranges(ranges: Iterable[tuple[int, int]], max_hole: int) -> list[tuple[int, int]]:
    """Rising ranges, with those at most `max_hole` apart made one."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start - joined[-1][1] <= max_hole:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


class RangesFile(io.RawIOBase):
    """A read-only file of which only some ranges are there; reading elsewhere raises OSError."""

    def __init__(self, starts: list[int], blocks: list[bytes]) -> None:
        self._starts = starts
        self._blocks = blocks
        self._size = starts[-1] + len(blocks[-1]) if blocks else 0
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        index = bisect_right(self._starts, self._position) - 1
        start = self._position - self._starts[index] if index >= 0 else 0
        block = self._blocks[index] if index >= 0 else b""
        if start + stop - self._position > len(block):
            raise OSError(f"bytes {self._position} to {stop} were not fetched")
        self._position, taken = stop, block[start : start + stop - self._position]
        return taken
