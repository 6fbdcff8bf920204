"""Cells of a source as people have them: missing values, whole numbers that became floats, text that is none."""

import math
import re
import unicodedata
from typing import Any

from npo_core.problems.faults import Unusable

EXACT = 2**53  # up to here every whole number is a float of its own
# Characters that move a terminal's cursor, or turn the reading direction; ends of lines and tabs stay.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def missing(value: Any) -> bool:
    """Whether a cell is empty: null, or the NaN that data frames have in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def numeral(value: int | float) -> str | None:
    """A number as text, None where nobody can tell which was meant.

    A column of whole numbers comes as floats where one of them was missing: 18.0 was 18.
    """
    if isinstance(value, int):
        return str(value)
    if math.isinf(value) or (value.is_integer() and abs(value) > EXACT):
        return None
    return str(int(value)) if value.is_integer() else str(value)


def is_text(value: Any) -> bool:
    """Whether all text in a cell can be written as UTF-8: half of a surrogate pair cannot."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    inner = value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(map(is_text, inner))


def visible(text: str) -> str:
    r"""Text for a terminal: control characters written out, as \x1b; ends of lines and tabs as they are."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def normal(text: str) -> str:
    """Text as it is compared: one blank for any number, none at the ends, composed characters."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def text_of(value: Any, what: str, column: str, numbers: bool = False) -> str:
    """Text, or where they may be numbers as text; Unusable if it is neither, or empty."""
    if numbers and isinstance(value, int | float) and not isinstance(value, bool) and not missing(value):
        if (written := numeral(value)) is None:
            raise Unusable(f"the {what} (column {column}) is {value}, a float of lost digits: write it as text")
        value = written
    if missing(value) or (isinstance(value, str) and not value.strip()):
        raise Unusable(f"the {what} (column {column}) is empty")
    if not isinstance(value, str):
        raise Unusable(f"the {what} (column {column}) is a {type(value).__name__}, not text")
    return value
