"""Finds the final answer in a text: by pattern, in a box, as a number, as a letter."""

from fractions import Fraction

import regex

PATTERN_SECONDS = 1.0  # a pattern that takes longer on one text is caught in backtracking
NUMBER = regex.compile(
    r"(?<![\w.])(?:[-+]?\$\s*[-+]?|[-+]?)(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.\d*|\.\d+)?(?<=[\d.])"
    r"(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+)?(?!\d|[eE][-+]?\d)"
)
SAME = {"\u2212": "-", "{,}": ",", "\\!": "", "\\,": "", "\\$": "$"}  # what is written in other ways
FRACTION = regex.compile(r"\\[dt]?frac\s*\{?\s*(-?\d+)\s*\}?\s*\{?\s*(\d+)\s*\}?")
BOX = regex.compile(r"\\boxed\s*(\{(?:[^{}]|(?1))*\})")  # braces inside it are balanced
WRAPPED = regex.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")


def pattern_of(text: str) -> regex.Pattern:
    """An answer pattern of the configuration; ^ and $ match at lines."""
    return regex.compile(text, regex.MULTILINE)


def by_pattern(text: str, pattern: regex.Pattern) -> str | None:
    """The last match's group. Raises TimeoutError where the pattern backtracks without end."""
    matches = pattern.findall(text, timeout=PATTERN_SECONDS)
    return matches[-1] if matches else None


def in_box(text: str) -> str | None:
    """What the last \\boxed{...} holds."""
    matches = BOX.findall(text, timeout=PATTERN_SECONDS)
    return matches[-1][1:-1] if matches else None


def plain(text: str) -> str:
    """Without commas, outer blanks and a final full stop."""
    return text.replace(",", "").strip().rstrip(".")


def number(text: str, *, last: bool = False) -> Fraction | None:
    """The first (or last) number in a text; currency, thousands separators, units and % around it are ignored.

    Example:
        number("about $1,250.50 a year") == Fraction("1250.5"); number("\\\\frac{3}{4}") == Fraction(3, 4)
    """
    for written, meant in SAME.items():
        text = text.replace(written, meant)
    text = FRACTION.sub(r"\1/\2", text)
    matches = [m.group() for m in NUMBER.finditer(text, timeout=PATTERN_SECONDS) if any(map(str.isdigit, m.group()))]
    for match in reversed(matches) if last else matches:
        try:
            return Fraction(regex.sub(r"[\s,$]", "", match))
        except (ValueError, ZeroDivisionError):
            continue
    return None


def letter(text: str, letters: str) -> str | None:
    """The letter that is all of a text, whatever is around it: `(B)`, `**B.**`, `B) 42`, `\\text{B}`."""
    bare = WRAPPED.sub(r"\1", text)
    match = regex.fullmatch(rf"[\s(\[*$]*([{letters}{letters.lower()}])(?:\s*|[)\]*$.:,].*)", bare, regex.DOTALL)
    return match.group(1).upper() if match else None


def said_letter(text: str, letters: str) -> str | None:
    """The letter after the last `answer is`, `answer:` or `option`."""
    pattern = rf"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*[(\[*$]*([{letters}])(?![\w'])"
    matches = regex.findall(pattern, WRAPPED.sub(r"\1", text), timeout=PATTERN_SECONDS)
    return matches[-1] if matches else None
