"""The problems of a run from its configuration."""

from typing import Any

from npo_core.config import AskedProblems, ChainProblems, Execution, Problems
from npo_core.config.verifier import WeightedVerifier
from npo_core.errors import DataError
from npo_core.problems import chain
from npo_core.problems.data import load_data
from npo_core.problems.judge import ByName, make_judge
from npo_core.problems.problem import Problem, ProblemSet

BENCHMARK = "benchmarks."  # what the name of a benchmark's part begins with


def load_problems(
    settings: Problems, execution: Execution | None = None, processor: Any = None, held_out_only: bool = False
) -> ProblemSet:
    """Generate or read the problems.

    Args:
        execution: says how many processes verify where the verifier needs some.
        processor: the model's, or its tokenizer, which renders and measures prompts; only problems from data need it.
        held_out_only: leave training problems unread where they have a source of their own; there are none then.

    Raises:
        DataError: a source cannot be read or a row is wrong; names file, rows and column.
        ConfigError: the tokenizer does not fit the settings.
    """
    if not isinstance(settings, ChainProblems):
        found = load_data(settings, processor, held_out_only, execution)
        parts = {name: problems for name, (problems, _) in found.items()}
        report = {name: told for name, (_, told) in found.items()}
        return problem_set(settings, execution, parts, report)
    try:
        return chain.make_problems(
            seed=settings.seed,
            train=settings.train,
            held_out=settings.held_out,
            operands=settings.operands,
            difficulties=tuple(settings.difficulties),
            whole=settings.verdict == "all",
        )
    except ValueError as error:
        raise DataError(f"problems: {error}: ask for fewer, or for more operands.") from None


def problem_set(
    settings: AskedProblems, execution: Execution | None, parts: dict[str, list[Problem]], report: dict[str, Any]
) -> ProblemSet:
    """Problems from data, by part, with the judges of their verifiers."""
    examples = {problem.verifier: problem for part in parts.values() for problem in part}  # one for each verifier
    judges = {
        name: make_judge(settings.verifier_named(name), settings.answer_pattern, execution or Execution(), example)
        for name, example in examples.items()
    }
    weighted = any(isinstance(settings.verifier_named(name), WeightedVerifier) for name in judges)
    benchmarks = {name.removeprefix(BENCHMARK): part for name, part in parts.items() if name.startswith(BENCHMARK)}
    return ProblemSet(
        parts.get("train", []),
        parts["held_out"],
        judges[""] if [*judges] == [""] else ByName(judges),
        ("accuracy", "reward") if weighted else ("accuracy",),
        report,
        benchmarks,
    )
