"""Whether two pieces of mathematics are the same: numbers first, then structure, then values at points."""

from fractions import Fraction

import regex

from npo_core.problems.reading.evaluation import equal, letters, parsed, proportional
from npo_core.problems.reading.numbers import Number, same_number
from npo_core.problems.reading.values import Expression, Items, Matrix, Relation, Value, Words

UNORDERED = ("", "{}", "U")
ALIKE = ({"", "{}"}, {"", "U"}, {"", "()"})  # kinds that say the same where the items do


def same(given: Value, reference: Value) -> bool:
    """Whether two values are the same. Raises MemoryError, RecursionError; runs for as long as sympy does."""
    if isinstance(given, Number) and isinstance(reference, Number):
        return same_amount(given, reference)
    if isinstance(given, Words) or isinstance(reference, Words):
        return given == reference
    if isinstance(given, Relation) or isinstance(reference, Relation):
        return same_relation(given, reference)
    if isinstance(given, Items) or isinstance(reference, Items):
        return same_items(given, reference)
    if isinstance(given, Matrix) or isinstance(reference, Matrix):
        return isinstance(given, Matrix) and isinstance(reference, Matrix) and same_rows(given, reference)
    return same_expression(given, reference)


def readable(value: Value) -> bool:
    """Whether the parser reads all expressions of a value."""
    match value:
        case Expression():
            return parsed(value.latex) is not None
        case Items():
            return all(map(readable, value.items))
        case Matrix():
            return all(readable(cell) for row in value.rows for cell in row)
        case Relation():
            sides = [value.value] if value.value is not None else map(Expression, (value.left, value.right))
            return all(map(readable, sides))
    return True


def same_amount(given: Number, reference: Number) -> bool:
    """Whether numbers are the same; 50% is 0.5, and 50 where percent were asked for."""
    percents = [number.unit == "%" for number in (given, reference)]
    if sum(percents) != 1 or {given.unit, reference.unit} != {"%", None}:
        return same_number(given, reference, None, Fraction(0))
    if given.value / (100 if percents[0] else 1) == reference.value / (100 if percents[1] else 1):
        return True
    asked = percents[1] or (given.value.denominator == 1 and reference.value.denominator == 1)
    return asked and given.value == reference.value


def same_relation(given: Value, reference: Value) -> bool:
    """Equations that name the same thing, or are multiples of each other; a name that is left out is no difference."""
    if not isinstance(given, Relation):
        return reference.value is not None and same(given, reference.value)
    if not isinstance(reference, Relation):
        return given.value is not None and same(given.value, reference)
    if given.operator != reference.operator:
        return False
    if given.value is not None and reference.value is not None:
        lefts = bare(given.left), bare(reference.left)
        if lefts[0] == lefts[1] or not all(map(NAMED.fullmatch, lefts)):
            return same(given.value, reference.value)
    sides = [parsed(text) for text in (given.left, given.right, reference.left, reference.right)]
    if any(side is None for side in sides) or letters(given.left + given.right) != letters(
        reference.left + reference.right
    ):
        return False
    return proportional(sides[0] - sides[1], sides[2] - sides[3], positive=given.operator != "=")


NAMED = regex.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\w+)?'*(?:\(.*\))?")


def bare(text: str) -> str:
    return regex.sub(r"[\s{}]", "", text)


def same_items(given: Value, reference: Value) -> bool:
    if not (isinstance(given, Items) and isinstance(reference, Items)):
        several, one = (given, reference) if isinstance(given, Items) else (reference, given)
        return several.kind == "{}" and len(several.items) == 1 and same(several.items[0], one)
    kinds = {given.kind, reference.kind}
    if len(given.items) != len(reference.items) or (len(kinds) > 1 and kinds not in ALIKE):
        return False
    named = any(isinstance(item, Relation) for item in (*given.items, *reference.items))
    if all(kind in UNORDERED for kind in kinds) and not (named and not all_named(given, reference)):
        return matched(list(given.items), list(reference.items))
    return all(same(a, b) for a, b in zip(given.items, reference.items, strict=True))


def all_named(*several: Items) -> bool:
    return all(isinstance(item, Relation) for items in several for item in items.items)


def matched(given: list[Value], reference: list[Value]) -> bool:
    """Whether every item has its like on the other side."""
    for item in given:
        like = next((i for i, other in enumerate(reference) if same(item, other)), None)
        if like is None:
            return False
        del reference[like]
    return not reference


def same_rows(given: Matrix, reference: Matrix) -> bool:
    if [len(row) for row in given.rows] != [len(row) for row in reference.rows]:
        return False
    pairs = ((a, b) for r, s in zip(given.rows, reference.rows, strict=True) for a, b in zip(r, s, strict=True))
    return all(same(a, b) for a, b in pairs)


def same_expression(given: Number | Expression, reference: Number | Expression) -> bool:
    """Expressions by their values; a decimal beside what is exact, such as 1.414214 and \\sqrt{2}, to a millionth."""
    if given.unit and reference.unit and given.unit != reference.unit:
        return False
    if isinstance(given, Expression) and isinstance(reference, Expression):
        if bare(given.latex) == bare(reference.latex):
            return True
        if letters(given.latex) != letters(reference.latex):
            return False
    return equal(latex_of(given), latex_of(reference), decimal(given), decimal(reference))


def latex_of(value: Number | Expression) -> str | Fraction:
    return value.latex if isinstance(value, Expression) else value.value


def decimal(value: Number | Expression) -> int | None:
    """Digits after the point of a decimal number; None: it is exact."""
    return value.places if isinstance(value, Number) and not value.exact else None
