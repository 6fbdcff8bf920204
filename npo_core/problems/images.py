"""Images of problems: hashed and checked once, and afterwards only referred to."""

import hashlib
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from npo_core.config import DataProblems, Source
from npo_core.errors import DataError
from npo_core.problems.problem import ImageRef
from npo_core.problems.sources import SourceRows, open_source


class BrokenImage(Exception):
    """Says what is wrong with an image, to go before a row's number."""


def refer(table: SourceRows, source: str, row: int, column: str, cell: Any) -> list[ImageRef]:
    """References to the images of one cell: an image or a list of them; none for an empty cell.

    Raises:
        BrokenImage: one of them cannot be opened, or is no image.
    """
    cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
    found = []
    for place, value in enumerate(cells):
        content, file = image_bytes(value, table.folder, column)
        check(content, file, column)
        digest = hashlib.sha256(content).hexdigest()[:32]
        inside = {} if file else {"source": source, "row": row, "column": column, "place": place}
        found.append(ImageRef(digest, file, **inside))
    return found


def image_bytes(value: Any, folder: Path | None, column: str) -> tuple[bytes, str | None]:
    """The bytes of a path, of bytes, or of a datasets Image, and the file that they are in, if it is one."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, None
    if not isinstance(value, str) or not value:
        raise BrokenImage(f"an image (column {column}) is a {type(value).__name__}, not a path, bytes or an Image")
    if folder is None and not Path(value).is_absolute():
        raise BrokenImage(f"an image (column {column}) is a path, and a data set of a hub has no folder")
    file = str(folder / value) if folder else value
    try:
        return Path(file).read_bytes(), file
    except OSError as error:
        raise BrokenImage(f"an image (column {column}) cannot be read ({error.strerror})") from None


def check(content: bytes, file: str | None, column: str) -> None:
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as image:
            image.verify()
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise BrokenImage(f"an image (column {column}) cannot be opened ({type(error).__name__})") from None


def open_image(ref: ImageRef, settings: DataProblems) -> Any:
    """The image (a PIL.Image) that a reference of these problems names.

    Raises:
        DataError: it is gone, or not the one that was checked.
    """
    from PIL import Image

    place = ref.file or f"{ref.source} row {ref.row + 1}, column {ref.column}"
    try:
        cell = ref.file if ref.file else opened(settings.sources[ref.source]).cell(ref.row, ref.column)
        content, _ = image_bytes(cell[ref.place] if isinstance(cell, list) else cell, Path(), ref.column or "")
    except (BrokenImage, IndexError, KeyError) as error:
        raise DataError(f"The image {place} is gone ({error}): put it back where it was.") from None
    if hashlib.sha256(content).hexdigest()[:32] != ref.digest:
        raise DataError(f"The image {place} has changed since the problems were read: put back the one it was.")
    return Image.open(BytesIO(content))


@lru_cache(maxsize=16)  # training, held-out, benchmarks
def opened(source: Source) -> SourceRows:
    return open_source(source)
