"""The Parquet layout of trajectories, and the conversion between rows and Arrow tables.

The layout serves one query: a few thousand prompts out of a million rows that are sorted by a hash. Such a query
touches about 1 - (1 - share)^rows_per_group of the row groups, so groups are small; but each costs about 650 bytes of
footer. 32 rows is where both stay cheap (`python -m benchmarks.cache`). Statistics lie on `prompt_id` alone: nothing
else is searched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from npo_core.guidance.trajectory import Trajectory

ROWS_PER_FILE = 16_384
ROWS_PER_GROUP = 32
TOKENS_PER_GROUP = 65_536  # long completions: a row group stays within 0.5 MB of decoded values


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
_ARRAYS = {"token_ids": np.int32, "logprobs": np.float32, "rewards": np.float32}


def parquet_writer(sink) -> pq.ParquetWriter:
    """A writer with this layout's encodings; one `write_table` call is one row group."""
    return pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        compression_level=1,
        use_dictionary=["guide", "outcome"],
        # Byte planes: the high bytes of token ids and the exponents of log-probs compress, the rest is skipped quickly.
        column_encoding={
            "token_ids.list.element": "BYTE_STREAM_SPLIT",
            "logprobs.list.element": "BYTE_STREAM_SPLIT",
        },
        write_statistics=["prompt_id"],
        store_schema=False,
    )


def group_is_full(rows: int, tokens: int) -> bool:
    """Whether a row group of so many rows and tokens should be closed."""
    return rows >= ROWS_PER_GROUP or tokens >= TOKENS_PER_GROUP


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


def list_values(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """(lengths int64 [N], values flat) of a list column, as NumPy arrays."""
    return column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64), column.flatten().to_numpy()


def batch_to_rows(batch: pa.RecordBatch) -> list[Trajectory]:
    """The trajectories of a record batch; their arrays are views into it."""
    split = {name: _split(*list_values(batch.column(name))) for name in _ARRAYS}
    plain = {name: batch.column(name).to_pylist() for name in SCHEMA.names if name not in _ARRAYS}
    columns = {**split, **plain}
    return [Trajectory(**{name: columns[name][i] for name in SCHEMA.names}) for i in range(batch.num_rows)]


def _split(lengths: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])
