"""From a row of a source to a question in the form of a chat, its answer and its images."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from npo_core.config import Columns, DataProblems, Source
from npo_core.errors import DataError
from npo_core.problems.checks import unusable
from npo_core.problems.faults import Faults
from npo_core.problems.images import BrokenImage, refer
from npo_core.problems.problem import ImageRef
from npo_core.problems.sources import SourceRows

Message = dict[str, Any]  # role, and content: text, or a list of parts
ROLES = ("system", "user", "assistant")
IMAGE_MARK = re.compile(r"<image(?: ?(\d+))?>")  # where an image belongs in a text, or which one does
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


class Unusable(Exception):
    """Says what is wrong with a row, to go before its number."""


def read_rows(table: SourceRows, source: Source, settings: DataProblems) -> list[Row]:
    """The rows of a source, which `table` is.

    Raises:
        DataError: a column is missing, or rows cannot be used; names all of them.
    """
    wanted = check_columns(table, source.columns)
    faults = Faults(table.name)
    rows: list[Row] = []
    first: dict[str, int] = {}  # row of each id
    for index, values in enumerate(table.read(wanted)):
        name = row_name(index, values, source.columns)
        id_ = values.get(source.columns.id) if values and source.columns.id else None
        if id_ is not None and (earlier := first.setdefault(str(id_), index)) != index:
            faults.add(f"the same id (column {source.columns.id}) as an earlier row", f"{name} as {earlier + 1}")
        try:
            row = read_row(table, source, index, values, name)
            if row.verifier not in ["", *settings.verifiers]:
                raise Unusable(f"{row.verifier!r} (column {source.columns.verifier}) is none of problems.verifiers")
            if lacking := unusable(settings.verifier_named(row.verifier), settings.answer_pattern, row.answer):
                what = f"with problems.answer_pattern {settings.answer_pattern!r} the verifier finds no {lacking}"
                raise Unusable(f"{what} (column {source.columns.answer})")
            rows.append(row)
        except (Unusable, BrokenImage) as error:
            faults.add(str(error), name)
    faults.check()
    if len({type(row.difficulty) for row in rows}) > 1:
        raise DataError(
            f"{table.name}: the difficulty (column {source.columns.difficulty}) is a number in some rows and text in "
            "others: make it one of them."
        )
    return rows


def check_columns(table: SourceRows, columns: Columns) -> set[str]:
    """The columns that are declared. Raises DataError if the source lacks one."""
    lists = {"images": columns.images, "others": columns.others}
    single = {name: getattr(columns, name) for name in ("answer", "verifier", "difficulty", "id")}
    single |= {"prompt": columns.prompt} if columns.messages is None else {"messages": columns.messages}
    declared = [(f, c) for f, c in single.items() if c] + [(f, c) for f, many in lists.items() for c in many]
    missing = [f"{column!r} (columns.{field})" for field, column in declared if column not in table.columns]
    if missing and any(table.columns):
        raise DataError(
            f"{table.name} has no column {', '.join(missing)}; it has {', '.join(table.columns)}: name one of these."
        )
    return {column for _, column in declared}


def row_name(index: int, values: dict | None, columns: Columns) -> str:
    id_ = values.get(columns.id) if values and columns.id else None
    return f"{index + 1}" if id_ is None else f"{index + 1} ({id_})"


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
    verifier = (values.get(columns.verifier) if columns.verifier else None) or source.verifier
    return Row(name, messages, answer, level, further(values, columns.others), images, str(verifier))


def further(values: dict, columns: Sequence[str]) -> dict[str, Any]:
    """The further columns as they can be kept in a file: what JSON does not know becomes text."""
    return json.loads(json.dumps({name: values.get(name) for name in columns}, default=str)) if columns else {}


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
    return "" if value is None else str(value)


def with_images(text: str, images: Sequence[ImageRef]) -> tuple[str | list[Message], tuple[ImageRef, ...]]:
    """The text, or its parts with images where they are marked, else before it; and the images in the order shown."""
    if not images:
        return text, ()
    pieces = IMAGE_MARK.split(text)
    texts, named = pieces[::2], [int(number) for number in pieces[1::2] if number is not None]
    if named:
        if len(named) != len(texts) - 1 or not set(named) <= set(range(1, len(images) + 1)):
            raise Unusable(f"marks for the images {', '.join(map(str, named))}, and {len(images)} images")
        rest = [image for number, image in enumerate(images, 1) if number not in named]
        images = [*rest, *(images[number - 1] for number in named)]
    texts = [""] * (len(images) - len(texts) + 1 if named or len(texts) == 1 else 0) + texts
    parts: list[Message] = []
    for number, piece in enumerate(texts):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts, tuple(images)


def image_places(messages: list[Message]) -> int:
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return sum(part["type"] == "image" for part in parts)


def chat(value: Any, column: str) -> list[Message]:
    """Messages as they are in a row, checked."""
    if not isinstance(value, list) or not value:
        raise Unusable(f"the chat (column {column}) is no list of messages")
    return [message(item, last=i == len(value) - 1, column=column) for i, item in enumerate(value)]


def message(value: Any, last: bool, column: str) -> Message:
    role, content = (value.get("role"), value.get("content")) if isinstance(value, dict) else (None, None)
    if role not in ROLES:
        raise Unusable(f"a message (column {column}) has a role other than {', '.join(ROLES)}")
    if last and role != "user":
        raise Unusable(f"the last message (column {column}) is not the user's, so nothing is asked")
    if isinstance(content, list):
        return {"role": role, "content": [part(item, column) for item in content]}
    return {"role": role, "content": text_of(content, "content of a message", column)}


def part(value: Any, column: str) -> Message:
    """A part of a message; data sets fill the fields that a part does not have with None."""
    given = {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else {}
    if given.get("type") == "text" and isinstance(given.get("text"), str):
        return {"type": "text", "text": given["text"]}
    if given == {"type": "image"}:
        return given
    raise Unusable(
        f"a part of a message (column {column}) is neither {{type: text, text: ...}} nor {{type: image}}, whose image "
        "is in one of columns.images"
    )


def text_of(value: Any, what: str, column: str, numbers: bool = False) -> str:
    """Text, or where they may be numbers as text; Unusable if it is neither, or empty."""
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unusable(f"the {what} (column {column}) is empty")
    if not isinstance(value, str):
        raise Unusable(f"the {what} (column {column}) is a {type(value).__name__}, not text")
    return value


def difficulty(value: Any, column: str) -> int | str:
    """A whole number or text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Unusable(f"the difficulty (column {column}) is a {type(value).__name__}, not a whole number or text")
    return value


def split_off(rows: list[Row], count: int) -> Iterator[bool]:
    """Whether each row is one of the `count` with the smallest hashes: more rows of data change few of them."""
    chosen = set(sorted(row.content for row in rows)[:count])
    return (row.content in chosen for row in rows)
