"""Fewer rows for trials of a configuration: the first of a local source, made-up ones in the columns of a hub's."""

import json
from pathlib import Path
from typing import Any

from npo_core.config import AskedProblems, Columns, DataProblems, Source
from npo_core.problems.sources import kind_of

ROWS = {"train": 24, "held_out": 6}
BENCHMARK_ROWS = 3
IMAGE = (48, 32)  # pixels


def fewer_rows(settings: AskedProblems, folder: Path) -> dict[str, Any]:
    """The fields of the same problems with the first rows of local sources, and for a hub's a file in `folder`."""
    fields = settings.model_dump(mode="json", exclude_unset=True)
    if not isinstance(settings, DataProblems):
        return fields | {part: min(getattr(settings, part), rows) for part, rows in ROWS.items()}
    held_out = 0 if settings.held_out_rows is None else min(settings.held_out_rows, ROWS["held_out"])
    if held_out:
        fields["held_out_rows"] = held_out
    for number, (part, source) in enumerate(settings.sources.items()):
        benchmark = part.removeprefix("benchmarks.")
        place = fields[part] if benchmark == part else fields["benchmarks"][benchmark]
        count = ROWS.get(part, BENCHMARK_ROWS) + (held_out if part == "train" else 0)
        if is_local(source):
            place["limit"] = min(count, source.limit or count)
            continue
        file = write_rows(source.columns, folder / f"{part}.jsonl", start=100 * number, count=count)
        place |= {"path": file, "format": "jsonl", "config": None, "split": None, "revision": None, "limit": None}
    return fields


def is_local(source: Source) -> bool:
    """Whether the rows of a source are on this machine. Raises DataError where they are nowhere."""
    return kind_of(source) != "hub"


def write_rows(columns: Columns, file: Path, *, start: int, count: int) -> str:
    """A JSON Lines file of sums, numbered from `start` so that no two files share one; its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [make_row(columns, number, file.parent) for number in range(start, start + count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def make_row(columns: Columns, number: int, folder: Path) -> dict[str, Any]:
    """One row with all declared columns; images are files beside it."""
    question = f"What is {number} + {number % 7}?"
    row: dict[str, Any] = {name: ["one", "two", "three"] for name in columns.others}
    for place, name in enumerate(columns.images):
        row[name] = make_image(folder, number, place)
    if columns.messages is None:
        row[columns.prompt] = question
    else:
        parts = [{"type": "image"} for _ in columns.images] + [{"type": "text", "text": question}]
        row[columns.messages] = [{"role": "user", "content": parts if columns.images else question}]
    row[columns.answer] = f"{number + number % 7}"
    if columns.difficulty is not None:
        row[columns.difficulty] = 1 + number % 2
    if columns.id is not None:
        row[columns.id] = f"made-up-{number}"
    return row


def make_image(folder: Path, number: int, place: int) -> str:
    """A picture of one colour; its path relative to the folder."""
    from PIL import Image

    name = f"{number}-{place}.png"
    colour = (37 * number % 256, 91 * number % 256, 60 * place % 256)
    Image.new("RGB", IMAGE, colour).save(folder / name)
    return name
