"""Rows of a text file: JSON Lines, or one JSON array of objects, with or without a byte-order mark."""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from npo_core.errors import DataError


def read_json(path: str, limit: int | None) -> list[dict | None]:
    """The rows of a file, the first `limit`; None for what is no JSON object.

    Raises:
        DataError: it cannot be read, is no text, or is one object as a whole.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            rows = as_array(file)
            rows = list(map(as_object, lines(file, limit))) if rows is None else rows[:limit]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}): convert it.") from None
    if rows and not any(rows) and isinstance(one := whole(path), dict):
        raise DataError(
            f"{path} is one JSON object ({', '.join(map(repr, one))}): write an array of objects, or one a line."
        )
    return rows


def lines(file: TextIO, limit: int | None) -> Iterator[str]:
    """The lines of a file, the first `limit`, but for empty ones at its end."""
    empty = 0
    for line in islice(file, limit):
        if line.strip():
            yield from [""] * empty
            yield line
        empty = 0 if line.strip() else empty + 1


def whole(path: str) -> Any:
    """What a file is as one JSON value; None where it is none."""
    with suppress(ValueError):
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    return None


def as_array(file: TextIO) -> list[dict | None] | None:
    """The objects of a file that is one array; None, from its start again, where it is none."""
    start = file.tell()
    begins = next((line for line in file if line.strip()), "").lstrip().startswith("[")
    file.seek(start)
    if begins:
        with suppress(ValueError):
            return [row if isinstance(row, dict) else None for row in json.load(file)]
        file.seek(start)
    return None


def as_object(line: str) -> dict | None:
    """The JSON object of a line; None where it is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
