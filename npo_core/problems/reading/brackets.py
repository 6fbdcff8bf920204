"""Brackets of LaTeX, and splitting outside of them."""

from collections.abc import Iterator
from itertools import pairwise

import regex

BRACKETS = regex.compile(r"\\[{}]|\\[lr]angle|[()\[\]{}]")
OPENING = {"(", "[", "{", "\\{", "\\langle"}


def depths(text: str) -> Iterator[tuple[int, int]]:
    """Where brackets of any kind open or close, and how many are open after that."""
    depth = 0
    for found in BRACKETS.finditer(text):
        depth += 1 if found[0] in OPENING else -1
        yield found.start(), depth


def balanced(text: str) -> bool:
    """Whether every bracket is closed after it is opened."""
    found = [depth for _, depth in depths(text)]
    return not found or (min(found) >= 0 and found[-1] == 0)


def top_level(text: str, separator: regex.Pattern) -> list[regex.Match]:
    """The matches of a separator that stand in no bracket."""
    changes = [(-1, 0), *depths(text)]
    closed = [(a, b) for (a, depth), (b, _) in pairwise([*changes, (len(text), 0)]) if depth == 0]
    return [found for found in separator.finditer(text) if any(a < found.start() < b for a, b in closed)]


def split(text: str, separator: regex.Pattern) -> list[str]:
    """The parts between separators outside brackets."""
    at, parts = 0, []
    for found in top_level(text, separator):
        parts.append(text[at : found.start()])
        at = found.end()
    return [*parts, text[at:]]
