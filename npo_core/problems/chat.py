"""Messages of a chat, and the places of images in them."""

import re
from collections.abc import Sequence
from typing import Any

from npo_core.problems.faults import Unusable
from npo_core.problems.problem import ImageRef
from npo_core.problems.values import text_of

Message = dict[str, Any]  # role, and content: text, or a list of parts
ROLES = ("system", "user", "assistant")
IMAGE_MARK = re.compile(r"<image(?: ?(\d+))?>")  # where an image belongs in a text, or which one does


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
    """How many images the messages ask for."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return sum(part["type"] == "image" for part in parts)


def chat(value: Any, column: str) -> list[Message]:
    """Messages as they are in a row, checked."""
    if not isinstance(value, list) or not value:
        raise Unusable(f"the chat (column {column}) is no list of messages")
    return [message(item, last=i == len(value) - 1, column=column) for i, item in enumerate(value)]


def message(value: Any, last: bool, column: str) -> Message:
    """A message of the chat. Raises Unusable where role or content is none."""
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


def texts_of(content: str | list[Message]) -> list[str]:
    """The texts of a message, with a mark for each image."""
    return [content] if isinstance(content, str) else [part.get("text", "<image>") for part in content]
