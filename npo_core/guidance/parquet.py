"""The Parquet layout of trajectories: rows to Arrow tables and back, writing row by row, reading chosen row groups.

The layout serves one query: a few thousand prompts out of a million rows that are sorted by a hash. Such a query
touches about 1 - (1 - share)^rows_per_group of the row groups, so groups are small; but each costs about 650 bytes of
footer. 32 rows is where both stay cheap (`python -m benchmarks.cache`). Statistics lie on `prompt_id` alone: nothing
else is searched.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import merge_offset_ranges

from npo_core.errors import DamagedError
from npo_core.guidance.trajectory import Trajectory
from npo_core.timeline.failures import as_storage_errors, s3_code
from npo_core.timeline.store import Store

ROWS_PER_FILE = 16_384
ROWS_PER_GROUP = 32
TOKENS_PER_GROUP = 65_536  # long completions: a row group stays within 0.5 MB of decoded values
BATCH_TOKENS = 262_144  # decoded at a time: 2 MB of values, so that long completions cost no more memory
MAX_HOLE = 256 * 1024  # bytes: below this, reading on is cheaper than another request
MAX_SLAB = 32 * 1024 * 1024  # bytes of one file held at a time when reading from an object store


def _column(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_column("element", kind))


SCHEMA = pa.schema(
    [
        _column("prompt_id", pa.string()),
        _column("token_ids", _list(pa.int32())),
        _column("logprobs", _list(pa.float32())),
        _column("rewards", _list(pa.float32())),
        _column("outcome", pa.string()),
        _column("guide", pa.string()),
        _column("guide_step", pa.int32()),
        _column("sample", pa.int32()),
        _column("samples", pa.int32()),
        _column("seed", pa.int64()),
    ]
)
_ARRAYS = ("token_ids", "logprobs", "rewards")


class RowGroupWriter:
    """Writes trajectories into `sink`; holds one row group in memory."""

    def __init__(self, sink) -> None:
        self.groups = 0
        self._rows: list[Trajectory] = []
        self._tokens = 0
        self._parquet = pq.ParquetWriter(
            sink,
            SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=["guide", "outcome"],
            # Byte planes: the high bytes of token ids and exponents of log-probs compress, the rest is skipped quickly.
            column_encoding=dict.fromkeys(["token_ids.list.element", "logprobs.list.element"], "BYTE_STREAM_SPLIT"),
            write_statistics=["prompt_id"],
            store_schema=False,
        )

    def add(self, row: Trajectory) -> None:
        """Take a row; a full row group is written at once."""
        self._rows.append(row)
        self._tokens += len(row.token_ids)
        if len(self._rows) >= ROWS_PER_GROUP or self._tokens >= TOKENS_PER_GROUP:
            self.flush()

    def close(self, notes: dict[bytes, str] | None = None) -> None:
        """Write what is held, and the footer with `notes` as its metadata."""
        self.flush()
        if notes:
            self._parquet.add_key_value_metadata(notes)
        self._parquet.close()

    def flush(self) -> None:
        """Write the rows that are held as a row group; its bytes reach the sink before this returns."""
        if self._rows:
            self._parquet.write_table(rows_to_table(self._rows))
            self.groups += 1
            self._rows, self._tokens = [], 0


def rows_to_table(rows: Sequence[Trajectory]) -> pa.Table:
    """One Arrow table with the columns of `SCHEMA`."""
    columns = []
    for field in SCHEMA:
        values = [getattr(row, field.name) for row in rows]
        columns.append(_list_column(values, field) if field.name in _ARRAYS else pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _list_column(arrays: list[np.ndarray], field: pa.Field) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)), type=field.type)


def batch_to_rows(batch: pa.RecordBatch) -> list[Trajectory]:
    """The trajectories of a record batch; their arrays are read-only views into it."""
    columns = {name: batch.column(name) for name in SCHEMA.names}
    values = {name: _split(column) if name in _ARRAYS else column.to_pylist() for name, column in columns.items()}
    return [Trajectory(*row) for row in zip(*(values[name] for name in SCHEMA.names), strict=True)]


def _split(column: pa.ListArray) -> list[np.ndarray]:
    values, ends = column.flatten().to_numpy(), np.cumsum(lengths(column)).tolist()
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def lengths(column: pa.ListArray) -> np.ndarray:
    """The lengths of the lists, int64 [N]."""
    return column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)


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
    return [group for group in groups if wanted is None or _holds_one(footer, group, wanted)]


def _holds_one(footer: pq.FileMetaData, group: int, wanted: Sequence[str]) -> bool:
    statistics = footer.row_group(group).column(0).statistics
    if statistics is None or not statistics.has_min_max:
        raise ValueError(f"row group {group} has no statistics on prompt_id")
    place = bisect_left(wanted, statistics.min)
    return place < len(wanted) and wanted[place] <= statistics.max


def byte_range(footer: pq.FileMetaData, group: int) -> tuple[int, int]:
    """Where a row group lies: its columns follow one another, and the first and the last have no dictionary."""
    row_group = footer.row_group(group)
    first, last = row_group.column(0), row_group.column(row_group.num_columns - 1)
    return first.data_page_offset, last.data_page_offset + last.total_compressed_size


def read_groups(
    store: Store, name: str, footer: pq.FileMetaData, groups: Sequence[int], columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of these row groups, in order, in batches of about `BATCH_TOKENS` tokens.

    From a disk only the named columns are read; from elsewhere whole row groups, `MAX_SLAB` bytes at a time.
    """
    for slab in [groups] if store.is_local else _slabs(footer, groups):
        if slab:
            source = store.path(name) if store.is_local else _fetch(store, name, footer, slab)
            with pq.ParquetFile(source, metadata=footer, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(_batch_rows(footer), row_groups=list(slab), columns=columns)


def _batch_rows(footer: pq.FileMetaData) -> int:
    """How many rows of this file hold about `BATCH_TOKENS` tokens, judged by its first row group."""
    first = footer.row_group(0)
    chunks = map(first.column, range(first.num_columns))
    tokens = next(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith("token_ids"))
    return max(1, BATCH_TOKENS * first.num_rows // tokens)


def _slabs(footer: pq.FileMetaData, groups: Sequence[int]) -> Iterator[list[int]]:
    """Runs of row groups that together hold at most `MAX_SLAB` bytes (or are one group)."""
    slab: list[int] = []
    held = 0
    for group in groups:
        start, stop = byte_range(footer, group)
        if slab and held + stop - start > MAX_SLAB:
            yield slab
            slab, held = [], 0
        slab.append(group)
        held += stop - start
    yield slab


def _fetch(store: Store, name: str, footer: pq.FileMetaData, groups: Sequence[int]) -> pa.BufferReader:
    """The file with only these row groups in it; near ones are joined, and all are requested together."""
    starts, stops = map(list, zip(*(byte_range(footer, group) for group in groups), strict=True))
    paths, starts, stops = merge_offset_ranges([store.path(name)] * len(starts), starts, stops, max_gap=MAX_HOLE)
    sparse = np.zeros(stops[-1], np.uint8)  # memory that is not written to is not taken
    for start, block in zip(starts, store.fs.cat_ranges(paths, starts, stops, on_error="raise"), strict=True):
        sparse[start : start + len(block)] = np.frombuffer(block, np.uint8)
    return pa.BufferReader(sparse)
