"""Which LaTeX is an expression that can be read in one way only; anything else is refused, before it is parsed."""

import regex

FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt frac binom max min gcd lcm det"
).split()
COMMANDS = frozenset(
    f"{' '.join(FUNCTIONS)} pi infty cdot times div alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta "
    "kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega "
    "lfloor rfloor lceil rceil lvert rvert vert emptyset mathbb setminus cap cup sum prod int lim to over ell".split()
)
TOKEN = regex.compile(
    r"(?P<number>\d+\.\d+|\d+|\.\d+)|\\(?P<command>[a-zA-Z]+)|(?P<letters>[a-zA-Z]+)|(?P<sign>[-+*/^_(){}\[\]|!,=<>])|(?P<brace>\\[{}])|(?P<blank>\s+)"
)
NAMES = regex.compile(r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sin|cos|tan|log|ln|exp|sqrt|pi)(?![a-zA-Z])")
MIXED = regex.compile(r"(?<![\d.^_])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}(?!\s*[\^!])")
FRACTION = regex.compile(r"\\frac\s*(?:(\d)|(\{[^{}]*\}))\s*(?:(\d)|(\{[^{}]*\}))")
LOWERED, RAISED = regex.compile(r"_\s*(\w)"), regex.compile(r"\^\s*(-\s*\w+|\d{2,})")
ROOT, ROOT_OF_BRACKET = regex.compile(r"\\sqrt\s*(\d)(?!\d)"), regex.compile(r"\\sqrt\s*\(([^()]*)\)")
POINT = regex.compile(r"(?<!\d)\.(\d)")
UNCLEAR = regex.compile(
    r"\d\s+\d"  # a product, or one number
    r"|/\s*(?:\d+|[a-zA-Z]|\\pi)\s*(?:[a-zA-Z({\d]|\\(?!cdot|times|right))"  # 1/2x
    r"|/\s*(?:\([^()]*\)|\{[^{}]*\}|\\[a-z]+\s*\{[^{}]*\})\s*(?:[a-zA-Z\d({]|\\(?!cdot|times|right))"
    r"|/[^-+*]*/|\d\s*_|(?<!_\s*\{[^{}]*)\}\s*\d|\\sqrt\s*\d|\^\s*[a-zA-Z]{2}"
    r"|[\^_]\s*(?:\{[^{}]*\}|\w)\s*\^(?<=\^\s*(?:\{[^{}]*\}|\w)\s*\^)"  # 2^3^4
    r"|(?<![a-zA-Z\\])(?:[a-zA-Z]{2,}\s+[a-zA-Z\d]|[a-zA-Z]\s+[a-zA-Z]{2,})"  # words
    r"|\d\s*\\frac|\d\s*\{|[-+*/^_]\s*$|^\s*[*/^_!]|\*\s*\*|\+\s*-|-\s*-|-\s*\+"
    r"|\^\s*\{?\s*\\circ|\\circ"
)


def expression(text: str) -> str | None:
    """A text as LaTeX with one meaning; None where it has none, several, or anything in it that is not known.

    Example:
        expression("3\\\\frac{1}{2}\\\\pi") == "(3+\\\\frac{1}{2})\\\\pi"; expression("1/2x") is None
    """
    text = NAMES.sub(r"\\\1 ", text.strip())
    if "." in text:
        text = POINT.sub(r"0.\1", text)
    if "\\frac" in text:
        text = FRACTION.sub(short_fraction, text)
        text = MIXED.sub(lambda f: f"({f[1]}+\\frac{{{f[2]}}}{{{f[3]}}})" if int(f[2]) < int(f[3]) else f[0], text)
    if "_" in text or "^" in text:
        text = RAISED.sub(r"^{\1}", LOWERED.sub(r"_{\1}", text))
    if "\\sqrt" in text:
        text = ROOT_OF_BRACKET.sub(r"\\sqrt{\1}", ROOT.sub(r"\\sqrt{\1}", text))
    if not text or UNCLEAR.search(text):
        return None
    return text if known(text) else None


def short_fraction(found: regex.Match) -> str:
    r"""`\frac12` with the braces that it leaves out."""
    above, below = (found[i] if found[i] is not None else found[i + 1][1:-1] for i in (1, 3))
    return f"\\frac{{{above}}}{{{below}}}"


def known(text: str) -> bool:
    """Whether a text is made of numbers, letters, signs and commands that are known, and of nothing else."""
    at, commands = 0, set()
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None or len(found["letters"] or "") > 3:
            return False
        if found["command"]:
            if found["command"] not in COMMANDS:
                return False
            commands.add(found["command"])
        if found["brace"] and not commands & {"setminus", "cap"}:
            return False
        if found["sign"] == "," and not commands & {"max", "min", "gcd", "lcm"}:
            return False
        if found["sign"] in ("=", "<", ">") and not commands & {"sum", "prod"}:
            return False
        if found["sign"] == "[" and not regex.search(r"\\sqrt\s*$", text[:at]):
            return False
        at = found.end()
    return any(char.isalnum() for char in text) and text.count("|") % 2 == 0
