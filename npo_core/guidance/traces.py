"""A file of completions that somebody wrote."""

from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from npo_core.config import TracesGuide
from npo_core.errors import DataError

SHOWN = 5  # rows that a message names at most


def read_traces(guide: TracesGuide) -> list[tuple[str, str, str]]:
    """Prompt, completion and origin of each row of the file. Raises DataError, with file and column."""
    path = Path(guide.path).expanduser()
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pa.json.read_json(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"mix.guide.path = {guide.path} cannot be read ({error}): give a JSON Lines or Parquet file."
        ) from None
    columns = [guide.prompt, guide.completion, *([guide.origin] if guide.origin else [])]
    if missing := [name for name in columns if name not in table.column_names]:
        raise DataError(
            f"mix.guide.path = {guide.path} has no column {missing[0]} (it has {', '.join(table.column_names)}): "
            "name yours in mix.guide.prompt, completion and origin."
        )
    values = [table.column(name).to_pylist() for name in columns]
    if wrong := [i for i, row in enumerate(zip(*values, strict=True), 1) if not all(isinstance(v, str) for v in row)]:
        shown = ", ".join(map(str, wrong[:SHOWN]))
        raise DataError(f"mix.guide.path = {guide.path}: rows {shown} hold something other than text.")
    origins = values[2] if guide.origin else [path.name] * len(table)
    return list(zip(values[0], values[1], origins, strict=True))
