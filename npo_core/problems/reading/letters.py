"""Which letter of a multiple choice a text answers with."""

import regex

from npo_core.problems.reading.claims import WHOLE, Claim, Given, answer_part, marked, said
from npo_core.problems.reading.normal import TEXT_CLOSE, TEXT_OPEN, normal

# A letter, and after a bracket, stop, colon or dash the option's own words.
ALONE = r"[\s(\[]*(?:option|choice|answer)?\s*:?\s*[(\[]*({letters})[)\]]*(?:\s*$|\s*[).:,;\]-]\s*(.*))"
# What would make another claim of the words that follow a letter.
MORE = regex.compile(
    r"\s*(?:is|isn't|are|was|were|can|cannot|could|would|may|might|must|seems|looks|does|doesn't|has|or|and|but|not|nor|vs)\b|"
    r".*\b(?:wrong|incorrect)\b|\W*(?:\w+\s)?(?:not|never)\b",
    regex.IGNORECASE,
)
ARTICLE = r"(?:\s+(?!and\b|or\b|is\b|are\b|could\b|can\b|would\b|nor\b|but\b|not\b|both\b)[a-z]{2,}|'[a-z])"


def given_letter(text: str, letters: str, pattern: regex.Pattern) -> Given[str]:
    """The letter that a text gives as its answer, in upper case, and where; None where it is none, or several.

    Example:
        given_letter("A) is false, B) is true. So the answer is B.", "ABCD", pattern).value == "B"
    """
    text = answer_part(text)
    claim = marked(text, pattern)
    if claim is not None:
        letter = letter_in(claim.text, letters)
        later = said(text[claim.end :])
        other = later and letter_in(later.text, letters)
        beside = regex.match(rf"[\s$)}}.*]*(?:[,;&/|]|and|or)+\s*\$?[(\[]?([{letters}])(?![\w'])", text[claim.end :])
        return Given(None if beside or (other and other != letter) else letter, claim)
    if claim := said(text):
        letter = letter_in(claim.text, letters, sentence=True)
        rest = others(normal(text[claim.end :]), letters, letter or "")
        return Given(None if rest else letter, claim)
    whole = Claim(text.strip(), WHOLE, len(text))
    said_a = regex.match(r"A\s*:", whole.text)  # as in "Q: ... A: ..."
    return Given(letter_in(whole.text, letters) if len(text) < 2000 and not said_a else None, whole)


def letter_in(text: str, letters: str, sentence: bool = False) -> str | None:
    """The letter that a text is: `(B)`, `**B.**`, `B) 42`, `\\text{B}`, `"b"`; in a `sentence` also `B because ...`."""
    if len(text) == 1:
        return text.upper() if text.upper() in letters else None
    if regex.search(r"[~!¬]\s*[(\[\"']*[A-Za-z]", text):
        return None
    text = regex.sub(f"[{TEXT_OPEN}{TEXT_CLOSE}{{}}$]", " ", normal(text)).strip()
    lower = letters.lower() if not sentence or regex.match(r"[(\[\"']\w[)\]\"']|\w$", text) else ""
    found = regex.fullmatch(ALONE.format(letters=f"[{letters}{lower}]"), text, regex.DOTALL)
    if found is None and sentence:
        found = regex.fullmatch(rf"[(\[]*([{letters}])[)\]]*\s+((?:because|since|as|for|due)\b.*)", text, regex.DOTALL)
    if found is None:
        return None
    letter, rest = found[1].upper(), found[2] or ""
    return None if MORE.match(rest) or others(rest, letters, letter) else letter


def others(text: str, letters: str, letter: str) -> list[str]:
    """The letters of other options that a text names; an article and a pronoun are none."""
    found = regex.finditer(rf"(?<![\p{{L}}\d'_\\])([{letters}])(?![\p{{L}}\d_])", text)
    return [f[1] for f in found if f[1] != letter and not (f[1] in "AI" and regex.match(ARTICLE, text[f.end() :]))]
