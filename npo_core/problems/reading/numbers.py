"""The grammar of a marked number: what may be written, and what may stand before and after it."""

from fractions import Fraction
from typing import NamedTuple

import regex

from npo_core.problems.reading.names import is_left_side, without_name
from npo_core.problems.reading.normal import CURRENCY as DOLLAR
from npo_core.problems.reading.normal import TEXT_CLOSE, TEXT_OPEN, normal
from npo_core.problems.reading.units import suffix
from npo_core.problems.reading.words import CURRENCY

DIGITS = 400  # more than these are no answer
EXPONENT = 400
PLAIN = regex.compile(r"[-+]?[0-9]{1,15}")
NUMBER = regex.compile(
    r"(?P<whole>[1-9]\d{0,2}(?:(?P<gap>,|\x20)\d{3})(?:(?P=gap)\d{3})*(?![\d,]|\x20\d)|\d+(?![\d]))?"
    r"(?:(?<=\d)\.(?P<part>\d*)|(?<![\d.])\.(?P<part>\d+))?"
    r"(?:\\overline\s*\{(?P<again>\d+)\})?"
)
TEN = r"\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*\^\s*(?:\{\s*([-+]?\s*\d+)\s*\}|([-+]?\d+))(?![\d.,])"
POWER = regex.compile(rf"{TEN}|[eE]([-+]?\d+)(?![\d.])")
POWER_IN_MATH = regex.compile(POWER.pattern.replace("|x|X", ""))  # there x is a variable
TEN_ALONE = regex.compile(r"10\s*\^\s*(?:\{\s*([-+]?\s*\d+)\s*\}|([-+]?\d+))(?![\d.,])")
OVER = regex.compile(r"\s*/\s*")
GROUP = r"\{\s*([^{}]*?)\s*\}"
FRACTION = regex.compile(rf"\\frac\s*(?:{GROUP}|(\d))\s*(?:{GROUP}|(\d))")
SIGN = regex.compile(r"\s*([-+])\s*|\s*(minus|negative)\s+", regex.IGNORECASE)
SYMBOL = regex.compile(
    rf"\s*(US\$|[A-Z]?[{DOLLAR}$]|[€£¥₹₩₽]|\\(?:pounds|euro|yen)(?![a-zA-Z])|(?:USD|EUR|GBP|JPY|INR|CNY|RMB|CHF|CAD|AUD|Rs\.?)(?![a-zA-Z]))\s*"
)
EQUALS = regex.compile(r"(?<![<>!:=\\])=(?![=<>])|\\approx(?![a-zA-Z])|\\simeq(?![a-zA-Z])")
BRACKETED = regex.compile(rf"\([^(){{}},$€£{DOLLAR}]*\)|\{{[^(){{}},]*\}}")  # ($5) is how books write -5


SOME_DIGIT = regex.compile(r"\d")
FORMULA = regex.compile(
    r"\\(?:sqrt|pi|infty|pm|log|ln|sin|cos|tan|begin|cup|le|ge|in|\{)(?![a-z])|[\w})]\s*\+|[<>]"
)  # no number


class Number(NamedTuple):
    """A number as it was written.

    Example:
        Number(Fraction(5, 2), decimal=True, places=1, unit="cm")  # 2.5 cm
    """

    value: Fraction
    decimal: bool = False  # written with a decimal point; else a whole number or a ratio of such
    places: int = 0  # power of ten of the last digit written, negated
    unit: str | None = None  # as `words` names it; None where there is none, or none that is known

    @property
    def exact(self) -> bool:
        """Whether it was written without rounding."""
        return not self.decimal or self.value.denominator == 1


def read_number(text: str, *, math: bool = False) -> Number | None:
    """The number that a marked answer is; None where it is none, more than one, or has more beside it than a name.

    `math`: the text is mathematics, in which a letter is a variable and no unit.

    Example:
        read_number("x = 2.5 \\\\text{ cm}") == Number(Fraction(5, 2), True, 1, "cm"); read_number("3 or 4") is None
    """
    if PLAIN.fullmatch(text):
        return Number(Fraction(int(text)))
    return number_in(normal(text), math)


def number_in(text: str, math: bool) -> Number | None:
    """As `read_number`, of a text in its normal form."""
    if PLAIN.fullmatch(text):
        return Number(Fraction(int(text)))
    if len(text) > 2 * DIGITS or not SOME_DIGIT.search(text) or ("=" not in text and FORMULA.search(text)):
        return None
    *names, last = EQUALS.split(unwrapped(text))
    if not all(map(is_left_side, names)):
        return None
    number = signed(without_name(fractions(unwrapped(last))), math)
    if number is None:
        return None
    others = [signed(fractions(unwrapped(name)), math) for name in names]
    return None if any(other and other.value != number.value for other in others) else number  # 0 = 3


def unwrapped(text: str) -> str:
    """Without what is around all of it: braces, round brackets, \\text{...}."""
    while True:
        text = text.strip()
        if text[:1] == TEXT_OPEN and text[-1:] == TEXT_CLOSE and text.count(TEXT_OPEN) == 1:
            text = text[1:-1]
        elif BRACKETED.fullmatch(text):
            text = text[1:-1]
        else:
            return text


def fractions(text: str) -> str:
    """\\frac{a}{b} as a/b, apart from what is beside it."""
    if "\\frac" not in text:
        return text
    return FRACTION.sub(lambda f: f" {f[1] if f[1] is not None else f[2]}/{f[3] if f[3] is not None else f[4]} ", text)


def signed(text: str, math: bool) -> Number | None:
    """Sign, currency and number, in the orders in which people write them, and what follows."""
    at, negative, unit, signs = 0, False, None, 0
    while found := (SIGN.match(text, at) or SYMBOL.match(text, at)):
        if found.re is SYMBOL:
            if unit is not None:
                return None
            unit = CURRENCY.get(found[1].lower().replace(DOLLAR, "$").lstrip("\\"), "other")
        else:
            signs += 1
            negative = found[1] != "+"
        at = found.end()
    if signs > 1 or (value := quantity(text, at, math)) is None:
        return None
    number, at = value
    if (after := suffix(text[at:], math, unit)) is None:
        return None
    factor, unit = after
    number = number._replace(value=number.value * 10**factor, places=number.places - factor, unit=unit)
    return number._replace(value=-number.value) if negative else number


def quantity(text: str, at: int, math: bool) -> tuple[Number, int] | None:
    """A whole number, decimal, fraction, mixed number, or power of ten, and where it ends."""
    if found := TEN_ALONE.match(text, at):
        return scaled(Number(Fraction(1)), found[1] or found[2], found.end())
    if (first := simple(text, at)) is None:
        return None
    number, at, grouped = first
    if found := (POWER_IN_MATH if math else POWER).match(text, at):
        return scaled(number, next(group for group in found.groups() if group is not None), found.end())
    if found := OVER.match(text, at):
        below = simple(text, found.end())
        if below is None:
            return (number, at) if regex.match(r"\s*/\s*[\p{L}\ue000]", text[at:]) else None
        return ratio(number, below[0], below[1], grouped or below[2], text)
    rest = regex.match(r"\s+(\d+)\s*/\s*(\d+)(?![\d.,]|\s*/)", text[at:])
    if rest and not number.decimal and not grouped:
        above, under = int(rest[1]), int(rest[2])
        return (Number(number.value + Fraction(above, under)), at + rest.end()) if above < under else None
    return number, at


def simple(text: str, at: int) -> tuple[Number, int, bool] | None:
    """Digits with or without a decimal point, where they end, and whether blanks group them."""
    found = NUMBER.match(text, at)
    if found is None or not found[0] or len(found[0]) > DIGITS:
        return None
    whole, part, again = found["whole"] or "", found["part"], found["again"]
    if not (whole or part) or (again and part is None):
        return None
    digits = regex.sub(r"[,\s]", "", whole)
    value = Fraction(int(f"{digits}{part or ''}" or 0), 10 ** len(part or ""))
    if again:
        value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(part))
        return Number(value), found.end(), False
    return Number(value, part is not None, len(part or "")), found.end(), found["gap"] == " "


def scaled(number: Number, power: str, end: int) -> tuple[Number, int] | None:
    """A number times a power of ten, and where it ends; None where the exponent is too large."""
    exponent = int(power.replace(" ", ""))
    if abs(exponent) > EXPONENT:
        return None
    value = number.value * Fraction(10) ** exponent
    return Number(value, number.decimal or exponent < 0, number.places - exponent), end


def ratio(above: Number, below: Number, end: int, grouped: bool, text: str) -> tuple[Number, int] | None:
    """A fraction; none where what is above or below it cannot be told, or is divided once more."""
    if grouped or not below.value or OVER.match(text, end) or POWER.match(text, end):
        return None
    decimal = above.decimal or below.decimal
    return Number(above.value / below.value, decimal, max(above.places, 12) if decimal else 0), end


def same_number(given: Number, reference: Number, relative: Fraction | None, absolute: Fraction) -> bool:
    """Whether two numbers agree: exactly where both are exact, else to a millionth and in every digit that is written.

    A tolerance that is set (`relative` not None, or `absolute` above 0) allows what it says instead. Units that are
    known and differ are never the same.
    """
    if given.unit and reference.unit and given.unit != reference.unit:
        return False
    off = abs(given.value - reference.value)
    if off <= max((relative or 0) * abs(reference.value), absolute):
        return True
    return relative is None and near(given, reference, off)


MILLIONTH = Fraction(1, 10**6)


def near(given: Number, reference: Number, off: Fraction) -> bool:
    """Whether the rounding of a decimal explains the difference."""
    if (given.exact and reference.exact) or reference.value.denominator == 1:
        return off == 0
    if reference.decimal and off * 2 >= Fraction(10) ** -reference.places:
        return off == 0
    return off <= MILLIONTH * abs(reference.value)
