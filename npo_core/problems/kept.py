"""Problems as a Parquet file, in which a run keeps what it once read, rendered and checked."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from npo_core.problems.problem import ImageRef, Problem

IMAGE = pa.struct(
    [
        ("digest", pa.string()),
        ("bytes", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("file", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("place", pa.int64()),
    ]
)


def to_parquet(problems: Sequence[Problem]) -> bytes:
    """One row a problem, in their order."""
    columns = {
        "id": pa.array([p.id for p in problems], pa.string()),
        "prompt": pa.array([p.prompt for p in problems], pa.large_string()),
        "answer": pa.array([p.answer for p in problems], pa.large_string()),
        "difficulty": pa.array([p.difficulty for p in problems]),  # whole numbers or text
        "row": pa.array([json.dumps(dict(p.row)) for p in problems], pa.large_string()),
        "images": pa.array([list(map(asdict, p.images)) for p in problems], pa.list_(IMAGE)),
        "verifier": pa.array([p.verifier for p in problems], pa.string()),
    }
    sink = BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def from_parquet(content: bytes) -> list[Problem]:
    """Raises pyarrow.ArrowException, or OSError, where the content is damaged."""
    columns = pq.read_table(BytesIO(content)).to_pydict()
    rows = map(json.loads, columns.pop("row"))
    images = (tuple(ImageRef(**ref) for ref in refs) for refs in columns.pop("images"))
    verifiers = columns.pop("verifier")
    return [Problem(*values) for values in zip(*columns.values(), rows, images, verifiers, strict=True)]
