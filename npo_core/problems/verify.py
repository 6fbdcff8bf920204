"""What a configuration's verifier says of given completions, and what it reads in them: behind `npo verify`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npo_core.config import Asked, Execution, Problems
from npo_core.config.verifier import LeafVerifier, TaskVerifier, leaves
from npo_core.errors import ConfigError, DataError
from npo_core.problems.checks import Compared, Mathematics, make_check
from npo_core.problems.judge import make_judge
from npo_core.problems.problem import Completion, Outcome, Problem
from npo_core.problems.reading.claims import Given
from npo_core.problems.reading.numbers import Number
from npo_core.problems.reading.values import Expression, Items, Matrix, Relation, Words


def read_pairs(path: Path) -> list[Completion]:
    """Completions of a JSON Lines file with `completion` and `answer` in every row; other columns go along.

    Raises:
        DataError: the file cannot be read, or a row lacks one of the two; names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a JSON Lines file in UTF-8.") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                pairs.append(pair(row.pop("completion"), row.pop("answer"), **row))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise DataError(
                    f'{path} row {number} is no {{"completion": "...", "answer": "..."}}: give both as text.'
                ) from None
    return pairs


def pair(completion: str, answer: str, prompt: str = "", **row: Any) -> Completion:
    """A completion that ended by itself, of a problem of which there is no more than the answer."""
    if not isinstance(completion, str) or not isinstance(answer, str):
        raise TypeError("completion and answer are texts")
    return Completion(Problem("0" * 16, prompt, answer, 0, row), completion, 1, True)


def verify(problems: Problems, execution: Execution, pairs: Sequence[Completion], name: str = "") -> dict[str, Any]:
    """Verdicts, and what each part of the verifier reads in reference and completion.

    Args:
        name: one of problems.verifiers; empty: problems.verifier.

    Returns:
        verifier, answer_pattern, and rows: of each pair answer, completion, outcome, accuracy, reward, fallback,
        guides (whether it could be guidance), and parts: kind, reference, claimed, by, value; None after an outage.

    Raises:
        ConfigError: the configuration has no verifier of this name.
    """
    if not isinstance(problems, Asked):
        raise ConfigError(
            "The built-in task (problems.kind = chain) has a verifier of its own: give a configuration of data."
        )
    if name and name not in problems.verifiers:
        there = ", ".join(problems.verifiers) or "there are none"
        raise ConfigError(f"{name} is none of problems.verifiers ({there}): name one of these.")
    verifier = problems.verifier_named(name)
    if any(isinstance(leaf, TaskVerifier) for leaf in leaves(verifier)):
        raise ConfigError(
            "A verifier of kind task scores answers to problems that its library drew, and npo verify has none: look "
            "at npo samples of a run, or name another of problems.verifiers."
        )
    patient = execution.model_copy(update={"max_outages": 0.999})  # an outage is shown, too
    judge = make_judge(verifier, problems.answer_pattern, patient, pairs[0].problem if pairs else None)
    readers = [(leaf, make_check(leaf, problems.answer_pattern, accuracy=False)) for leaf in leaves(verifier)]
    rows = [
        {
            "answer": one.problem.answer,
            "completion": one.text,
            "outcome": str(verdict.outcome),
            "accuracy": known(verdict.accuracy),
            "reward": known(verdict.reward),
            "fallback": verdict.fallback and verdict.outcome is Outcome.CORRECT,
            "guides": verdict.may_guide(),
            "parts": [
                reading(leaf, check, one) for leaf, check in readers if isinstance(check, Compared | Mathematics)
            ],
        }
        for one, verdict in zip(pairs, judge(pairs), strict=True)
    ]
    return {"verifier": verifier.model_dump(mode="json"), "answer_pattern": problems.answer_pattern, "rows": rows}


def known(value: float) -> float | None:
    """The value; None for NaN."""
    return None if math.isnan(value) else value


def reading(leaf: LeafVerifier, check: Compared | Mathematics, completion: Completion) -> dict[str, Any]:
    """What one part reads."""
    given: Given = check.given(completion.text)
    reference = check.reading(completion.problem.answer).value
    return {
        "kind": leaf.kind,
        "reference": None if reference is None else shown(reference),
        "claimed": None if given.claim is None else given.claim.text,
        "by": None if given.claim is None else given.claim.by,
        "value": None if given.value is None else shown(given.value),
    }


def shown(value: Any) -> str:
    """A value as a person reads it.

    Example:
        shown(read_number("2 1/2 cm")) == "5/2 cm"; shown(read_math("x > 3")) == "(3, \\\\infty)"
    """
    match value:
        case Number():
            written = str(value.value) if value.exact else f"{float(value.value):.15g}"
            return f"{written} {value.unit}" if value.unit else written
        case Words():
            return f'"{value.text}"'
        case Expression():
            return f"{value.latex} {value.unit}" if value.unit else value.latex
        case Items():
            opened, closed = (value.kind[:1], value.kind[1:]) if len(value.kind) == 2 else ("", "")
            return opened + (" U " if value.kind == "U" else ", ").join(map(shown, value.items)) + closed
        case Relation():
            return f"{value.left} {value.operator} {shown(value.value) if value.value is not None else value.right}"
        case Matrix():
            return "; ".join(", ".join(map(shown, row)) for row in value.rows)
    return str(value)
