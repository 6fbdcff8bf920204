"""From a row of a source to a question in the form of a chat, its answer and its images."""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from npo_core.config import AskedProblems, Columns, Source
from npo_core.errors import DataError
from npo_core.problems.chat import Message, chat, image_places, texts_of, with_images
from npo_core.problems.checks import unusable
from npo_core.problems.faults import Faults, Unusable
from npo_core.problems.images import BrokenImage, refer
from npo_core.problems.problem import ImageRef
from npo_core.problems.sources import SourceRows
from npo_core.problems.values import is_text, missing, normal, numeral, text_of, visible

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says, before it is rendered."""

    name: str  # its number from 1, and its id if it has one, for messages
    messages: list[Message]
    answer: str
    difficulty: int | str
    others: dict[str, Any]
    images: tuple[ImageRef, ...]
    verifier: str

    @property
    def content(self) -> str:
        """A hash of what the row says, whatever chat template it is rendered by."""
        said = json.dumps([self.messages, self.answer, [image.digest for image in self.images]])
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def question(self) -> str:
        """The same for two rows that ask the same, whatever their answers and however many blanks they have."""
        texts = [(m["role"], normal(text)) for m in self.messages for text in texts_of(m["content"])]
        said = json.dumps([texts, [image.digest for image in self.images]])
        return hashlib.sha256(said.encode()).hexdigest()


def read_rows(table: SourceRows, source: Source, settings: AskedProblems) -> list[Row]:
    """The rows of a source, which `table` is.

    Raises:
        DataError: a column is missing, or rows cannot be used; names all of them.
    """
    wanted = check_columns(table, source.columns)
    faults, rows = Faults(table.name), []
    ids: dict[str, int] = {}  # row of each id
    for index, values in enumerate(table.read(wanted)):
        name, id_ = row_name(index, values, source.columns), id_of(values, source.columns)
        if id_ is not None and (earlier := ids.setdefault(id_, index)) != index:
            faults.add(f"the same id (column {source.columns.id}) as an earlier row", f"{name} as {earlier + 1}")
        try:
            refuse_broken_text(values, wanted)
            row = read_row(table, source, index, values, name)
            refuse_unverifiable(row, source, settings)
            rows.append(row)
        except (Unusable, BrokenImage) as error:
            faults.add(str(error), name)
    add_repeated(faults, rows)
    faults.check()
    if len({type(row.difficulty) for row in rows}) > 1:
        raise DataError(
            f"{table.name}: the difficulty (column {source.columns.difficulty}) is a number in some rows and text in "
            "others: make it one of them."
        )
    return rows


def add_repeated(faults: Faults, rows: Sequence[Row]) -> None:
    """Name the rows that ask what an earlier one does."""
    seen: dict[str, Row] = {}
    for row in rows:
        if (first := seen.setdefault(row.question, row)) is not row:
            what = "problem" if first.answer == row.answer else "question, with another answer,"
            faults.add(f"the same {what} as an earlier row", f"{row.name} as {first.name}")


def refuse_unverifiable(row: Row, source: Source, settings: AskedProblems) -> None:
    """Raises Unusable where a row's verifier is not there, or finds no answer in its reference."""
    if row.verifier not in ["", *settings.verifiers]:
        raise Unusable(f"{row.verifier!r} (column {source.columns.verifier}) is none of problems.verifiers")
    if lacking := unusable(settings.verifier_named(row.verifier), settings.answer_pattern, row.answer):
        what = f"with problems.answer_pattern {settings.answer_pattern!r} the verifier finds no {lacking}"
        raise Unusable(f"{what} (column {source.columns.answer})")


def check_columns(table: SourceRows, columns: Columns) -> set[str]:
    """The columns that are declared. Raises DataError if the source lacks one."""
    declared = columns.declared
    missing = [f"{column!r} (columns.{field})" for column, field in declared.items() if column not in table.columns]
    if missing and any(table.columns):
        raise DataError(
            f"{table.name} has no column {', '.join(missing)}; it has {', '.join(table.columns)}: name one of these."
        )
    return set(declared)


def row_name(index: int, values: dict | None, columns: Columns) -> str:
    """A row in messages: its number from 1, and its id where it has one."""
    id_ = id_of(values, columns)
    return f"{index + 1}" if id_ is None else f"{index + 1} ({visible(id_)})"


def refuse_broken_text(values: dict | None, columns: Collection[str]) -> None:
    """Raises Unusable where a cell of these columns holds what no text can."""
    if broken := [column for column in sorted(columns) if values and not is_text(values.get(column))]:
        raise Unusable(f"half of a surrogate pair (column {', '.join(broken)}), which is no text")


def id_of(values: dict | None, columns: Columns) -> str | None:
    """What a row is named by, besides its number."""
    value = values.get(columns.id) if values and columns.id else None
    if missing(value):
        return None
    return (numeral(value) if isinstance(value, float) else None) or str(value)


def read_row(table: SourceRows, source: Source, index: int, values: dict | None, name: str) -> Row:
    """One row. Raises Unusable or BrokenImage."""
    if values is None:
        raise Unusable("no JSON object")
    columns = source.columns
    images = tuple(ref for c in columns.images for ref in refer(table, source, index, c, values.get(c)))
    if columns.messages is None:
        content, images = with_images(question(source, values), images)
        messages = [{"role": "user", "content": content}]
    else:
        messages = chat(values.get(columns.messages), columns.messages)
    if (places := image_places(messages)) != len(images):
        raise Unusable(f"{places} places for images, and {len(images)} images")
    answer = text_of(values.get(columns.answer), "answer", columns.answer, numbers=True)
    level = difficulty(values.get(columns.difficulty), columns.difficulty) if columns.difficulty else 0
    verifier = values.get(columns.verifier) if columns.verifier else None
    verifier = source.verifier if missing(verifier) or not verifier else verifier
    return Row(name, messages, answer, level, further(values, columns.others), images, str(verifier))


def further(values: dict, columns: Sequence[str]) -> dict[str, Any]:
    """The further columns as they can be kept in a file: what JSON does not know becomes text."""
    there = {name: None if missing(values.get(name)) else values[name] for name in columns}
    return json.loads(json.dumps(there, default=str)) if there else {}


def question(source: Source, values: dict) -> str:
    """The text of the question: the template with its columns filled in, in one pass."""
    prompt = text_of(values.get(source.columns.prompt), "prompt", source.columns.prompt)
    filled = {"prompt": prompt} | {name: shown(values.get(name)) for name in source.columns.others}
    names = "|".join(map(re.escape, filled))
    return re.sub(rf"\{{({names})\}}", lambda found: filled[found[1]], source.prompt_template)


def shown(value: Any) -> str:
    """A further column in a prompt; a list is a choice, one lettered line for each."""
    if isinstance(value, list):
        return "\n".join(f"{letter}. {item}" for letter, item in zip(LETTERS, value, strict=False))
    return "" if missing(value) else (numeral(value) if isinstance(value, float) else None) or str(value)


def difficulty(value: Any, column: str) -> int | str:
    """A whole number or text."""
    if missing(value):
        raise Unusable(f"the difficulty (column {column}) is empty")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = visible(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Unusable(f"the difficulty (column {column}) is a {type(value).__name__}, not a whole number or text")
    return value


def split_off(rows: list[Row], count: int) -> Iterator[bool]:
    """Whether each row is one of the `count` with the smallest hashes: more rows of data change few of them."""
    chosen = set(sorted(row.content for row in rows)[:count])
    return (row.content in chosen for row in rows)
