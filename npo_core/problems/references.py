"""References of mathematics, read once in workers before anything is trained: reading may take as long as it likes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from npo_core.config import DataProblems, Execution
from npo_core.config.verifier import MathVerifier, leaves
from npo_core.problems.faults import Faults
from npo_core.problems.pool import Pool
from npo_core.problems.problem import Reference
from npo_core.problems.rows import Row


class Rows(Protocol):
    """The rows of a source."""

    source: str
    rows: list[Row]


def check_references(parts: Mapping[str, Rows], settings: DataProblems, execution: Execution) -> None:
    """Raises DataError, with source and row numbers, where the math verifier cannot read a row's answer."""
    wanted = {name: math_verifier(settings, name) for name in ("", *settings.verifiers)}
    mathematical = [row for part in parts.values() for row in part.rows if wanted[row.verifier] is not None]
    if not mathematical:
        return
    lacking = lacks([row.answer for row in mathematical], wanted[mathematical[0].verifier], settings, execution)
    for part in parts.values():
        faults = Faults(part.source)
        for row in part.rows:
            if wanted[row.verifier] is not None and (what := lacking[row.answer]) is not None:
                faults.add(f"the answer has no {what}", row.name)
        faults.check()


def math_verifier(settings: DataProblems, name: str) -> MathVerifier | None:
    """The verifier of mathematics that a named verifier is or has among its parts."""
    return next((leaf for leaf in leaves(settings.verifier_named(name)) if isinstance(leaf, MathVerifier)), None)


def lacks(
    answers: Sequence[str], verifier: MathVerifier, settings: DataProblems, execution: Execution
) -> dict[str, str | None]:
    """What each answer lacks to be read as mathematics, None: nothing."""
    different = list(dict.fromkeys(answers))
    limits = {"workers": execution.verifier_workers, "max_outages": execution.max_outages}
    pool = Pool(verifier, settings.answer_pattern, **limits, accuracy=False)
    return dict(zip(different, pool.lacking([Reference(answer) for answer in different]), strict=True))
