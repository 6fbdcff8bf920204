"""One way of writing: what is written in several ways, in Unicode, LaTeX or markdown, is written in one of them."""

import unicodedata

import regex

CURRENCY = "\ue002"  # an escaped dollar sign, which is no mathematics
TEXT_OPEN, TEXT_CLOSE = "\ue000", "\ue001"  # around what \text{...} held

DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe58\ufe63\uff0d\u207b"
BLANKS = "\t\x0b\f\r\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
SIGNS = {
    "\u00d7": r"\times ", "\u22c5": r"\cdot ", "\u00b7": r"\cdot ", "\u2219": r"\cdot ", "\u2217": "*",
    "\u00f7": r"\div ", "\u2215": "/", "\u2044": "/", "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u221e": r"\infty ",
    "\u03c0": r"\pi ", "\u03b8": r"\theta ", "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03b3": r"\gamma ",
    "\u03bb": r"\lambda ", "\u03bc": r"\mu ", "\u00b5": r"\mu ", "\u221a": r"\sqrt ", "\u2260": r"\neq ",
    "\u2264": r"\le ", "\u2265": r"\ge ", "\u2a7d": r"\le ", "\u2a7e": r"\ge ", "\u2248": r"\approx ",
    "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R} ",
    "\u00b0": r"^\circ ", "\u2032": "'", "\u2192": r"\to ", "\u2026": "...", "\u2236": ":", "\u02c6": "^",
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"', "\u2018": "'", "\u2019": "'",
    "\uff05": "%", "\u066a": "%", "\ufe6a": "%", "\uff0e": ".", "\uff0c": ",", "\uff1d": "=", "\u2e31": ".",
    "\u066b": ".", "\u066c": ",", "\uff08": "(", "\uff09": ")", "\uff1a": ":", "\u3002": ".", "\uff0f": "/",
}  # fmt: skip
VULGAR = {
    char: f" {unicodedata.normalize('NFKC', char).replace(chr(0x2044), '/')} "
    for char in "\u00bc\u00bd\u00be" + "".join(map(chr, range(0x2150, 0x215F)))
}
TABLE = str.maketrans(
    dict.fromkeys(DASHES, "-") | dict.fromkeys(BLANKS, " ") | dict.fromkeys(UNSEEN, "") | SIGNS | VULGAR
)
SUPERSCRIPTS = {"\u00b9": "1", "\u00b2": "2", "\u00b3": "3", "\u2070": "0", "\u207a": "+", "\u207b": "-"} | {
    chr(0x2070 + digit): str(digit) for digit in range(4, 10)
}
RAISED = regex.compile(f"[{''.join(SUPERSCRIPTS)}]+")
LOWERED = regex.compile("[\u2080-\u2089]+")
OTHER_DIGIT = regex.compile(r"[^\P{Nd}0-9]")

SPACING = regex.compile(
    r"\\(?:[,;:> ]|(?:quad|qquad|thinspace|enspace|space|hspace\s*\{[^{}]*\}|hfill|displaystyle|textstyle|limits)"
    r"(?![a-zA-Z]))|~"
)
NOTHING = regex.compile(r"\\!|\\(?:[bB]ig{1,2}[lrm]?|left|right)(?![a-zA-Z])(?:\s*\.(?!\d))?|\u200e|\u200f")
SYNONYMS = regex.compile(
    r"\\(dfrac|tfrac|cfrac|leq|geq|leqslant|geqslant|ne|lt|gt|lbrace|rbrace|varnothing|degree)(?![a-zA-Z])"
)
MEANT = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "leq": r"\le", "geq": r"\ge", "leqslant": r"\le",
    "geqslant": r"\ge", "ne": r"\neq", "lt": "<", "gt": ">", "lbrace": r"\{", "rbrace": r"\}",
    "varnothing": r"\emptyset", "degree": r"^\circ",
}  # fmt: skip
CODE = regex.compile(r"(?<!\w)`+([^`\n]+)`+(?!\w)")
EMPHASIS = regex.compile(
    r"(?<![\w)}\]*\\])(?<![\d.]\s)(\*{1,3}|_{2,3})(?=[^\s*_])([^\n]*?[^\s*_])\1(?![\w({\[*])(?!\s\d)"
)
TEXTUAL = regex.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|mathrm|mbox|hbox|operatorname|rm)\s*\{([^{}]*)\}"
)
STYLED = regex.compile(r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm|bf|underline)\s*\{([^{}]*)\}")
PLAIN = regex.compile(r"[-+]?[0-9]{1,15}\.?|[A-Za-z]")


def ascii_digits(text: str) -> str:
    """The text with the digits of all scripts as 0 to 9."""
    return OTHER_DIGIT.sub(lambda found: str(unicodedata.digit(found[0])), text)


def unicode_signs(text: str) -> str:
    """Unicode's minus signs, blanks, digits, superscripts, fractions and signs, as ASCII and LaTeX."""
    if text.isascii():
        return text
    text = RAISED.sub(lambda found: f"^{{{''.join(SUPERSCRIPTS[char] for char in found[0])}}}", text)
    text = LOWERED.sub(lambda found: f"_{{{''.join(str(ord(char) - 0x2080) for char in found[0])}}}", text)
    return ascii_digits(text.translate(TABLE))


def emphasis(text: str) -> str:
    """Without markdown's emphasis and code marks."""
    if "`" in text:
        text = CODE.sub(r"\1", text)
    while "*" in text or "__" in text:
        text, count = EMPHASIS.subn(r"\2", text)
        if not count:
            break
    return text


def normal(text: str) -> str:
    """An answer in one way of writing: see this module's docstring.

    Dollar signs that are escaped become CURRENCY, those around mathematics go; what `\\text{...}` holds is marked by
    TEXT_OPEN and TEXT_CLOSE; a final full stop and outer blanks and quotes go.
    """
    if PLAIN.fullmatch(text):
        return text.rstrip(".")
    text = emphasis(unicode_signs(text.replace("\n", " ")))
    if "\\" in text or "~" in text:
        text = latex(text)
    if (dollars := text.count("$")) > 1:
        text = text.replace("$", "") if dollars % 2 == 0 else text
    return outer(text.replace("{,}", ","))


def latex(text: str) -> str:
    """LaTeX's spacing, escapes, synonyms and delimiters of mathematics."""
    text = text.replace("\\\\", "\ue003").replace("\\$", CURRENCY).replace("\\%", "%").replace("\\&", "&")
    text = text.replace("\\#", "#").replace("\\_", "_")
    text = NOTHING.sub("", text)
    text = regex.sub(r"\\[()\[\]]", " ", text)
    text = SPACING.sub(" ", text)
    text = STYLED.sub(r"{\1}", text)
    text = SYNONYMS.sub(lambda found: MEANT[found[1]], text)
    for _ in range(3):
        text, count = TEXTUAL.subn(rf" {TEXT_OPEN}\1{TEXT_CLOSE} ", text)
        if not count:
            break
    return text.replace("\ue003", "\\\\")


def outer(text: str) -> str:
    """Without outer blanks, quotes and a final full stop."""
    while True:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text.count(text[0]) == 2:
            text = text[1:-1]
        if text == before:
            return text
