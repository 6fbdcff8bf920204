"""Expressions by their values: parsed by math-verify's parser, evaluated by sympy, compared digit by digit."""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import regex

DIGITS = 150  # of values that are compared; two that agree in DIGITS - MARGIN of them are the same
MARGIN = 30
POINTS = 6  # at which expressions with variables are compared
SCALES = (0.37, -2.6, 131.7, -10453.3, 3.7e-9, 0.81)  # of the variables there: near 0, far from it, negative


def letters(latex: str) -> frozenset[str]:
    """The letters that are variables: the parser reads A and a as one."""
    return frozenset(regex.sub(r"\\[a-zA-Z]+|e", " ", latex)) & frozenset(LETTERS)


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@lru_cache(maxsize=1024)
def parsed(latex: str) -> Any:
    """A sympy object by math-verify's parser, decimals as the fractions that they are; None where it reads none."""
    import sympy
    from latex2sympy2_extended import latex2sympy

    real = not regex.search(r"(?<![a-zA-Z\\])i(?![a-zA-Z])|(?<=[\d)}])i\b", latex)
    found = guarded(lambda: latex2sympy(latex, is_real=real, convert_degrees=False, normalization_config=None))
    if found is None or not isinstance(found, sympy.Basic):
        return None
    floats = {number: sympy.Rational(str(number)) for number in found.atoms(sympy.Float)}
    return guarded(lambda: found.xreplace(floats).doit() if floats else found.doit())


def guarded(call: Callable[[], Any]) -> Any:
    """The result of a call into sympy or its parser; None where it cannot, except where the machine cannot."""
    try:
        return call()
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return None


@lru_cache(maxsize=1024)
def equal(given: str | Fraction, reference: str | Fraction, places: int | None, wanted: int | None) -> bool:
    """Whether two expressions have the same value, at points where they have variables."""
    import sympy

    a, b = (parsed(v) if isinstance(v, str) else sympy.Rational(v.numerator, v.denominator) for v in (given, reference))
    if a is None or b is None:
        return False
    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return bool(guarded(lambda: a == b))
    if a == b:
        return not a.has(sympy.nan, sympy.zoo)
    difference = guarded(lambda: a - b)
    if places is None and wanted is None and difference is not None and difference.is_Rational:
        return difference == 0
    names = sorted({symbol.name for symbol in a.free_symbols | b.free_symbols})
    if not names:
        return close(constant(a), constant(b), places, wanted)
    pairs = [(at(a, names, point), at(b, names, point)) for point in range(POINTS)]
    known = [pair for pair in pairs if None not in pair]
    return len(known) > 1 and all(close(x, y, None, None) for x, y in known)


def at(found: Any, names: list[str], point: int) -> Any:
    """The value where every variable has one of its own; None where there is none."""
    import sympy

    scale = sympy.Rational(str(SCALES[point]))
    values = {n: scale * sympy.Rational(1009 + 271 * i * i + 37 * point, 1013 + 89 * i) for i, n in enumerate(names)}
    return value(found, {symbol: values[symbol.name] for symbol in found.free_symbols})


def value(found: Any, values: dict | None = None) -> Any:
    """A rational number as it is, or a number of DIGITS digits; None where it is none, or not finite."""
    number = guarded(lambda: found.subs(values) if values else found)
    if number is not None and not number.is_Rational:
        number = guarded(lambda: number.evalf(DIGITS))
    if number is None or not number.is_number or not number.is_finite:
        return None
    return number if all(part.is_Number for part in number.as_real_imag()) else None


constant = lru_cache(maxsize=1024)(value)  # the completions of a prompt share its reference


def close(a: Any, b: Any, places: int | None, wanted: int | None) -> bool:
    """Whether two values agree, a decimal (its digits after the point are given) to a millionth and to its digits."""
    if a is None or b is None:
        return False
    off, size = abs(a - b), max(abs(a), abs(b))
    if off == 0 or (not off.is_Rational and bool(off <= size * power_of_ten(MARGIN - DIGITS))):
        return True
    if places is None and wanted is None:
        return False
    return bool(off * 10**6 <= abs(b)) and (wanted is None or bool(2 * off < power_of_ten(-wanted)))


def power_of_ten(exponent: int) -> Any:
    """10 to the exponent, exactly, for sympy."""
    import sympy

    return sympy.Integer(10) ** exponent


def proportional(a: Any, b: Any, *, positive: bool) -> bool:
    """Whether one expression is a constant multiple of the other, a positive one where that matters."""
    names = sorted({symbol.name for symbol in a.free_symbols | b.free_symbols})
    pairs = [(at(a, names, point), at(b, names, point)) for point in range(POINTS)]
    ratios = [x / y for x, y in pairs if x is not None and y is not None and y != 0 and x != 0]
    if len(ratios) < 3 or len(ratios) < sum(None not in pair for pair in pairs):
        return False
    return all(close(r, ratios[0], None, None) for r in ratios) and (not positive or bool(ratios[0] > 0))
