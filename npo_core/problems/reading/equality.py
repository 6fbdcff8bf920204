"""Whether two pieces of mathematics are the same: numbers first, then structure, then values at points."""

from fractions import Fraction

import regex

from npo_core.problems.reading.evaluation import equal, letters, parsed, proportional
from npo_core.problems.reading.numbers import Number, same_number
from npo_core.problems.reading.values import Expression, Items, Matrix, Relation, Value, Words

UNORDERED = ("", "{}", "U")
ALIKE = ({"", "{}"}, {"", "U"}, {"()", "]["})  # kinds that say the same where the items do


def same(given: Value, reference: Value) -> bool:
    """Whether two values are the same. Raises MemoryError, RecursionError; runs for as long as sympy does."""
    if isinstance(given, Number) and isinstance(reference, Number):
        return same_amount(given, reference)
    if isinstance(given, Words) or isinstance(reference, Words):
        return given == reference
    if isinstance(reference, Relation):
        return same_relation(given, reference)
    if isinstance(given, Relation):
        return given.value is not None and same(given.value, reference)
    if isinstance(given, Items):
        return same_items(given, reference) if isinstance(reference, Items) else same_only(given, reference)
    if isinstance(reference, Items):
        return same_only(reference, given)
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


def same_relation(given: Value, reference: Relation) -> bool:
    """Equations that name the same thing, or are multiples of each other; a name that is left out is no difference."""
    if not isinstance(given, Relation):
        return reference.value is not None and same(given, reference.value)
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


NAMED = regex.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\w+)?'*(?:\^\{?-1\}?)?(?:\(.*\))?")


def bare(text: str) -> str:
    """LaTeX without blanks, but for those that end a command."""
    return regex.sub(r"(?<!\\[a-zA-Z]+)\s+|\s+(?![a-zA-Z])", "", text.strip()) if " " in text else text


def same_only(items: Items, one: Value) -> bool:
    """Whether a set has one value, and that is the other side."""
    alone = items.kind == "{}" and len(items.items) == 1 and not isinstance(items.items[0], Items)
    return alone and same(items.items[0], one)


def same_items(given: Items, reference: Items) -> bool:
    """Lists with the same items: in order where either has one, or where names that differ give it one."""
    kinds = {given.kind, reference.kind}
    bare_tuple = (given.kind, reference.kind) == ("", "()")
    if len(given.items) != len(reference.items) or not (len(kinds) == 1 or kinds in ALIKE or bare_tuple):
        return False
    if given.of and reference.of and given.of != reference.of:
        return False
    pairs = list(zip(given.items, reference.items, strict=True))
    if any(isinstance(a, Items) != isinstance(b, Items) for a, b in pairs):
        return False
    names = [list(map(name_of, items.items)) for items in (given, reference)]
    if (
        kinds <= set(UNORDERED)
        and all(len(set(some)) == 1 or None not in some for some in names)
        and (names[0].count(None) == names[1].count(None) or len(set(filter(None, sum(names, [])))) == 1)
    ):
        return matched(list(given.items), list(reference.items))
    in_order = all(None in some or some == sorted(name for name in some if name is not None) for some in names)
    return in_order and "{}" not in kinds and all(same(a, b) for a, b in pairs)


def name_of(value: Value) -> str | None:
    """The name that a value is said to be that of."""
    return bare(value.left) if isinstance(value, Relation) else None


def matched(given: list[Value], reference: list[Value]) -> bool:
    """Whether every item has its like on the other side."""
    for item in given:
        like = next((i for i, other in enumerate(reference) if same(item, other)), None)
        if like is None:
            return False
        del reference[like]
    return not reference


def same_rows(given: Matrix, reference: Matrix) -> bool:
    """Whether two matrices have equal shape and entries."""
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
    """What math-verify compares: LaTeX of an expression, the value of a number."""
    return value.latex if isinstance(value, Expression) else value.value


def decimal(value: Number | Expression) -> int | None:
    """Digits after the point of a decimal number; None: it is exact."""
    return value.places if isinstance(value, Number) and not value.exact else None
