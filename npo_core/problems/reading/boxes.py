"""The last box of a text: what it holds, and whether it is an answer of its own or a part of something larger."""

import regex

from npo_core.problems.reading.words import COUNTS, UNITS

OPENED = regex.compile(r"\\(?:boxed|fbox)\s*\{")
BRACE = regex.compile(r"\\.|[{}]", regex.DOTALL)
# Between boxes that make one list, and between such that make one statement, whatever that is.
LIST = regex.compile(
    r"(?:[\s$,;&]|\\[()\[\] ,;]|\\q?quad|\\text\s*\{\s*(?:and|or|,)?\s*\}|\band\b|\bor\b|[A-Za-z](?:_\{?\w+\}?)?\s*=)*"
)
STATEMENT = regex.compile(
    r"(?:[^\p{L}\n.]|\.(?!\s)|\\[a-zA-Z]+|\b(?:and|or|also|either|both|as|well|plus|minus|times|to|possibly|maybe|perhaps|"
    r"alternatively|else|respectively|[a-zA-Z])\b)*"
)

# What stands right before or after a box that is a part of a formula, or of a sentence that denies it.
OPEN = r"(?:[$({]|[^\S\n])*(?:\\[(\[])?[^\S\n]*\Z"
BEFORE = regex.compile(
    r"(?:[\d^_×÷·±√¬/+−–-]|[\w)}\]]\s*\*|(?<![=-])(?<!</?\w+)>|[<≠≤≥])"
    + OPEN
    + r"|(?i:\b(?:not|cannot|\w+n't|never|anything but|different from|far from|other than|rather than|instead of|"
    r"except|unlike|up to|more than|less than|greater than|fewer than|at least|at most|minus|negative|half of|twice|"
    r"double)(?:\s+\w+){0,2})[\s:]*" + OPEN
)
COMMAND = regex.compile(r"\\([a-zA-Z]+)\s*(?:\{[^{}]*\}\s*)?" + OPEN)
HARMLESS = frozenset(
    "Rightarrow implies therefore quad qquad displaystyle approx left text textbf mathbf underline color begin hline "
    "Longrightarrow rightarrow longrightarrow large Large LARGE huge bf hfill newline item par centering in iff "
    "Leftrightarrow because leadsto equiv".split()
)
CLOSED = r"(?:[$})]|[^\S\n]|\\(?:[)\],;! ]|right\)))*"
AFTER = regex.compile(
    rf"{CLOSED}(?:\^(?!\s*\{{?\s*\\circ)|[_/+×÷·±'\d]|\*(?=\s?[\d\\a-zA-Z(])|-\s?(?:[\d\\]|[a-z]\b)|!(?=\S)|\.\d"
    r"|[<>≤≥≠](?!/?\w+>)|\\(?:times|cdot|div|pm|mp|pi|sqrt|d?frac|infty|p?mod|bmod|cup|cap|le|ge|leq|geq|neq|ne|to)"
    r"(?![a-zA-Z])|,\s*\$?\s*-?\d|(?:and|or|to|plus|minus|times|by)\s+[\s$\\(]*(?:-?\d|\\|[a-z]\b)"
    r"|\\text\s*\{\s*(?:and|or)\b|[b-hj-zB-HJ-Z](?![\w'])|d[a-z]\b|[a-zA-Z]{1,2}\()|[A-Za-z0-9({]"
)
WORD = regex.compile(rf"{CLOSED}(?:\\(?:text|mathrm)\s*\{{\s*)?(?:(?:and|or|to) (?:an? )?)?([a-zA-Z]{{2,}})(?![\w])")


def last_box(text: str, at: int) -> tuple[str, int]:
    """The content of the box at a place, and its end; of several that make a list, of all of them.

    The content is empty where the box stays open, or is no answer of its own.
    """
    content, end = braces(text, at)
    if content is None:
        return "", len(text)
    contents, start, listed = [content], at, True
    while (earlier := text.rfind("\\boxed", 0, start)) >= 0:
        content, closed = braces(text, earlier)
        if content is None or closed > start or not STATEMENT.fullmatch(text, closed, start):
            break
        listed = listed and LIST.fullmatch(text, closed, start) is not None
        contents.insert(0, content)
        start = earlier
    if partial(text, start, end):
        return "", end
    if len(set(contents)) > 1:
        return " , ".join(contents) if listed else "", end
    word = WORD.match(text, end)
    named = word is not None and contents[-1].rstrip()[-1:].isdigit() and word[1].lower() in UNITS
    return f"{contents[-1]} \\text{{{word[1]}}}" if named else contents[-1], end


def braces(text: str, at: int) -> tuple[str | None, int]:
    """What the braces after a box's command hold, and where they end; None where they do not."""
    if (opened := OPENED.match(text, at)) is None:
        return None, at
    depth = 1
    for found in BRACE.finditer(text, opened.end()):
        if found[0][0] != "\\":
            depth += 1 if found[0] == "{" else -1
            if depth == 0:
                return text[opened.end() : found.start()], found.end()
    return None, len(text)


def partial(text: str, start: int, end: int) -> bool:
    """Whether a box is a part of a larger formula, or denied by the words beside it."""
    before = text[max(0, start - 60) : start]
    command = COMMAND.search(before)
    if (command and command[1] not in HARMLESS) or BEFORE.search(before) or AFTER.match(text, end):
        return True
    word = WORD.match(text, end)
    return word is not None and word[1].lower() in COUNTS
