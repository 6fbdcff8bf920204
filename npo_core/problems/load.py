"""The problems of a run from its configuration."""

from typing import Any

from npo_core.config import DataProblems, Execution, Problems
from npo_core.config.verifier import WeightedVerifier
from npo_core.errors import DataError
from npo_core.problems import chain
from npo_core.problems.data import load_data
from npo_core.problems.judge import make_judge
from npo_core.problems.problem import Problem, ProblemSet


def load_problems(settings: Problems, execution: Execution | None = None, tokenizer: Any = None) -> ProblemSet:
    """Generate or read the problems.

    Args:
        execution: says how many processes verify where the verifier needs some.
        tokenizer: the model's, which renders and measures prompts; only problems from data need it.

    Raises:
        DataError: a source cannot be read or a row is wrong; names file, rows and column.
        ConfigError: the tokenizer does not fit the settings.
    """
    if isinstance(settings, DataProblems):
        parts = load_data(settings, tokenizer)
        return problem_set(
            settings, execution, parts["train"][0], parts["held_out"][0], {n: p[1] for n, p in parts.items()}
        )
    try:
        return chain.make_problems(
            seed=settings.seed,
            train=settings.train,
            held_out=settings.held_out,
            operands=settings.operands,
            difficulties=tuple(settings.difficulties),
        )
    except ValueError as error:
        raise DataError(f"problems: {error}: ask for fewer, or for more operands.") from None


def problem_set(
    settings: DataProblems,
    execution: Execution | None,
    train: list[Problem],
    held_out: list[Problem],
    report: dict[str, Any],
) -> ProblemSet:
    """Problems from data with the judge of their verifier."""
    judge = make_judge(settings.verifier, settings.answer_pattern, execution or Execution(), train[0])
    names = ("accuracy", "reward") if isinstance(settings.verifier, WeightedVerifier) else ("accuracy",)
    return ProblemSet(train, held_out, judge, names, report)
