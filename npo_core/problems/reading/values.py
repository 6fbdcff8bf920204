"""What a piece of mathematics may be: numbers, words, expressions, and lists, intervals, sets, matrices of such."""

from dataclasses import dataclass
from typing import NamedTuple

from npo_core.problems.reading.numbers import Number


class Words(NamedTuple):
    """Plain words, which are equal where they are the same."""

    text: str


class Expression(NamedTuple):
    """LaTeX that has no structure of its own, as math-verify's parser reads it, and a unit beside it."""

    latex: str
    unit: str | None = None


@dataclass(frozen=True)
class Items:
    """Several values: `()` in order, `{}` in any, `` a bare list, `[)`, `][` and the like intervals, `U` a union,
    `:` a ratio or a time.

    `of` is the variable of an interval that was written as an inequality; None elsewhere.
    """

    kind: str
    items: tuple["Value", ...]
    of: str | None = None


@dataclass(frozen=True)
class Relation:
    """An equation, or an inequality that is no interval of one variable."""

    operator: str  # =, <, <=
    left: str
    right: str
    value: "Value | None" = None  # what a name is said to be, where the left side is one


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple["Value", ...], ...]


Value = Number | Words | Expression | Items | Relation | Matrix
