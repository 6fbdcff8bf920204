"""References of mathematics, read once in workers before anything is trained: reading may take as long as it likes."""

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from npo_core.config import AskedProblems, Execution
from npo_core.config.verifier import MathVerifier, TaskVerifier, leaves
from npo_core.errors import ConfigError
from npo_core.problems.faults import Faults
from npo_core.problems.pool import Pool
from npo_core.problems.problem import Completion, Problem, Reference
from npo_core.problems.rows import Row


class Rows(Protocol):
    """The rows of a source."""

    @property
    def source(self) -> str: ...

    @property
    def rows(self) -> Sequence[Row]: ...


def check_references(parts: Mapping[str, Rows], settings: AskedProblems, execution: Execution) -> None:
    """Raises DataError, with source and row numbers, where the math verifier cannot read a row's answer."""
    wanted = {name: math_verifier(settings, name) for name in ("", *settings.verifiers)}
    rows = [row for part in parts.values() for row in part.rows]
    mathematical = [(row, verifier) for row in rows if (verifier := wanted[row.verifier]) is not None]
    if not mathematical:
        return
    lacking = lacks([row.answer for row, _ in mathematical], mathematical[0][1], settings, execution)
    for part in parts.values():
        faults = Faults(part.source)
        for row in part.rows:
            if wanted[row.verifier] is not None and (what := lacking[row.answer]) is not None:
                faults.add(f"the verifier finds no {what}", row.name)
        faults.check()


def check_scored(problems: Sequence[Problem], settings: AskedProblems, execution: Execution) -> None:
    """Raises ConfigError where a task of Reasoning Gym does not take its own answer, once it was kept, for right."""
    drawn = [problem for problem in problems if problem.row.get("library") == "reasoning-gym"]
    tasks = {json.dumps({**problem.row["task"], "metadata": None}): problem for problem in drawn}
    if not tasks:
        return
    example, workers = [*tasks.values()][0], execution.verifier_workers
    judge = Pool(TaskVerifier(), settings.answer_pattern, workers=workers, max_outages=0.999, example=example)
    verdicts = judge([Completion(problem, problem.answer, 1, finished=True) for problem in tasks.values()])
    for problem, verdict in zip(tasks.values(), verdicts, strict=True):
        if verdict.correct is False:
            raise ConfigError(
                f"problems.tasks: {problem.row['task']['name']} does not accept its own answer after it was kept as "
                "JSON: name another task."
            )


def math_verifier(settings: AskedProblems, name: str) -> MathVerifier | None:
    """The verifier of mathematics that a named verifier is or has among its parts."""
    return next((leaf for leaf in leaves(settings.verifier_named(name)) if isinstance(leaf, MathVerifier)), None)


def lacks(
    answers: Sequence[str], verifier: MathVerifier, settings: AskedProblems, execution: Execution
) -> dict[str, str | None]:
    """What each answer lacks to be read as mathematics, None: nothing."""
    different = list(dict.fromkeys(answers))
    pool = Pool(
        verifier,
        settings.answer_pattern,
        workers=execution.verifier_workers,
        max_outages=execution.max_outages,
        accuracy=False,
    )
    return dict(zip(different, pool.lacking([Reference(answer) for answer in different]), strict=True))
