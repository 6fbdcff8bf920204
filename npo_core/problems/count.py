"""How many rows the sources of problems have, told without reading them where that can be."""

from functools import lru_cache
from pathlib import Path

from npo_core.config import AskedProblems, DataProblems, Source
from npo_core.errors import DataError
from npo_core.problems.sources import kind_of, open_source


def part_rows(problems: AskedProblems) -> dict[str, int | None]:
    """Rows of every part, before any is dropped: train, held_out, and benchmarks.NAME; None: at a hub.

    Raises:
        DataError: a file cannot be read.
    """
    if not isinstance(problems, DataProblems):
        return {"train": problems.train, "held_out": problems.held_out}
    found = {part: source_rows(source) for part, source in problems.sources.items()}
    if problems.held_out_rows is not None:
        whole = found["train"]
        found |= {"held_out": problems.held_out_rows}
        found["train"] = None if whole is None else max(whole - problems.held_out_rows, 0)
    return found


def source_rows(source: Source) -> int | None:
    """Rows of a source, `limit` at most; None where it is at a hub. Raises DataError."""
    kind = kind_of(source)
    if kind == "hub":
        return None
    path = Path(source.path)
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return counted(kind, source.model_dump_json(), stamp)


@lru_cache(maxsize=64)
def counted(kind: str, fields: str, stamp: int) -> int:
    """The rows of a local source; `stamp` is when it changed last."""
    source = Source.model_validate_json(fields)
    rows = jsonl_rows(source) if kind == "jsonl" else None
    if rows is None and kind == "parquet":
        rows = parquet_rows(source)
    if rows is None:
        rows = len(open_source(source).rows)
    return rows if source.limit is None else min(rows, source.limit)


def jsonl_rows(source: Source) -> int | None:
    """Lines with something in them; None where it is an array."""
    try:
        with open(source.path, "rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0)
            return None if start.startswith(b"[") else sum(1 for line in file if line.strip())
    except OSError as error:
        raise DataError(f"{source.path} cannot be read ({error.strerror}): check the path.") from None


def parquet_rows(source: Source) -> int | None:
    """Rows by the files' footers; None where they cannot be read, which `open_source` explains."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(source.path)
    try:
        return sum(pq.read_metadata(file).num_rows for file in (path.rglob("*.parquet") if path.is_dir() else [path]))
    except (OSError, pa.ArrowException):
        return None
