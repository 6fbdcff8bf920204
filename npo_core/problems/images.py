"""Images of problems: hashed and decoded once, and afterwards only referred to."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from npo_core.config import Source
from npo_core.errors import DataError
from npo_core.problems.picture import as_seen
from npo_core.problems.problem import ImageRef, Problem
from npo_core.problems.sources import SourceRows, open_source

PLACE = {"path", "format", "config", "split", "revision", "limit"}  # fields of a source that say where its rows are
NAMED = 5  # images that one error names


class BrokenImage(Exception):
    """Says what is wrong with an image, to go before a row's number."""


def refer(table: SourceRows, source: Source, row: int, column: str, cell: Any) -> list[ImageRef]:
    """References to the images of one cell: an image or a list of them; none for an empty cell.

    Raises:
        BrokenImage: one of them cannot be read whole, or is no image.
    """
    cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
    found = []
    for place, value in enumerate(cells):
        content, file = image_bytes(value, table.folder, column)
        width, height = decoded_size(content, column)
        ref = ImageRef(digest(content), len(content), height, width, file)
        found.append(ref if file else replace(ref, source=place_of(source), row=row, column=column, place=place))
    return found


def digest(content: bytes) -> str:
    """128 bits of the SHA-256 of an image's bytes, as 32 hex digits."""
    return hashlib.sha256(content).hexdigest()[:32]


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


def decoded_size(content: bytes, column: str) -> tuple[int, int]:
    """Width and height in pixels, as it is seen, of an image that can be decoded whole. Raises BrokenImage."""
    try:
        return as_seen(content).size
    except ValueError as error:
        raise BrokenImage(f"an image (column {column}) cannot be read: {error}") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise BrokenImage(f"an image (column {column}) cannot be decoded ({type(error).__name__})") from None


def open_image(ref: ImageRef) -> Any:
    """The image (a PIL.Image, RGB) that a reference names, as people see it. Raises what `image_content` does."""
    return as_seen(image_content(ref))


def image_content(ref: ImageRef) -> bytes:
    """The bytes of the image that a reference names, as in its file.

    Raises:
        DataError: it is gone, or not the one that was checked.
    """
    try:
        cell = cell_of(ref)
        content, _ = image_bytes(cell[ref.place] if isinstance(cell, list) else cell, Path(), ref.column or "")
    except (BrokenImage, IndexError, KeyError) as error:
        raise DataError(f"The image {where(ref)} is gone ({error}): put it back where it was.") from None
    if digest(content) != ref.digest:
        raise DataError(f"The image {where(ref)} has changed since the problems were read: put back the one it was.")
    return content


def cell_of(ref: ImageRef) -> Any:
    """The file of an image, or what the cell of a data set holds. Raises what `open_source` does."""
    if ref.source is None or ref.row is None or ref.column is None:
        return ref.file
    return opened(ref.source).cell(ref.row, ref.column)


def check_present(problems: Iterable[Problem]) -> None:
    """Look, without reading them, whether the images of problems are there, so that a stage does not find out later.

    Raises:
        DataError: files are gone or have another size, or a data set that holds images cannot be opened.
    """
    refs = dict.fromkeys(ref for problem in problems for ref in problem.images)
    for source in dict.fromkeys(ref.source for ref in refs if ref.source):
        opened(source)
    wrong = [ref for ref in refs if ref.file and not has_size(ref.file, ref.bytes)]
    if wrong:
        named = "".join(f"\n  {where(ref)}" for ref in wrong[:NAMED]) + ("\n  ..." if len(wrong) > NAMED else "")
        raise DataError(
            f"{len(wrong):,} images are gone or have changed since the problems were read; put back what was there:"
            f"{named}"
        )


def has_size(file: str, size: int) -> bool:
    """Whether the file is there and has so many bytes."""
    try:
        return Path(file).stat().st_size == size
    except OSError:
        return False


def where(ref: ImageRef) -> str:
    """Where an image comes from, in words."""
    if ref.source is None or ref.row is None:
        return str(ref.file)
    return f"{Source.model_validate_json(ref.source).path} row {ref.row + 1}, column {ref.column}"


@lru_cache(maxsize=16)  # training, held-out, benchmarks
def place_of(source: Source) -> str:
    """The fields of a source that open it, as JSON, from whatever folder a run is taken up again."""
    if os.path.exists(source.path):
        source = source.model_copy(update={"path": os.path.abspath(source.path)})
    return source.model_dump_json(include=PLACE, exclude_none=True)


@lru_cache(maxsize=16)
def opened(source: str) -> SourceRows:
    """The rows of a `place_of`."""
    return open_source(Source.model_validate_json(source))
