"""The problems of a run from its configuration."""

import json
from pathlib import Path

from npo_core.config import ChainProblems, Execution, JsonlProblems, Problems
from npo_core.config.verifier import WeightedVerifier
from npo_core.errors import DataError
from npo_core.problems import chain
from npo_core.problems.checks import unusable
from npo_core.problems.judge import make_judge
from npo_core.problems.problem import Problem, ProblemSet, problem_id


def load_problems(settings: Problems, execution: Execution | None = None) -> ProblemSet:
    """Generate or read the problems; `execution` says how many processes verify where the verifier needs some.

    Raises:
        DataError: a file cannot be read or a row is wrong; names file, line and field.
    """
    if isinstance(settings, ChainProblems):
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
    train, held_out = read_jsonl(settings.train_file, settings), read_jsonl(settings.held_out_file, settings)
    if shared := {p.id for p in train} & {p.id for p in held_out}:
        raise DataError(
            f"{len(shared)} problems are in both {settings.train_file} and {settings.held_out_file}: "
            "remove them from one, or the evaluation measures memory."
        )
    judge = make_judge(settings.verifier, settings.answer_pattern, execution or Execution(), train[0])
    names = ("accuracy", "reward") if isinstance(settings.verifier, WeightedVerifier) else ("accuracy",)
    return ProblemSet(train, held_out, judge, names)


def read_jsonl(path: Path, settings: JsonlProblems) -> list[Problem]:
    """The problems of one JSON Lines file, in its order."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise DataError(f"The problem file {path} cannot be read ({error.strerror}): check problems.*_file.") from None
    problems, seen = [], {}
    for number, line in enumerate(lines, 1):
        problem = parse_row(line, f"{path}, line {number}", settings)
        if problem.id in seen:
            raise DataError(f"{path}, line {number}: the same problem as line {seen[problem.id]}; remove one.")
        seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise DataError(f"The problem file {path} is empty: it needs one JSON object a line.")
    return problems


def parse_row(line: str, where: str, settings: JsonlProblems) -> Problem:
    try:
        row = json.loads(line)
        prompt, answer = str(row[settings.prompt_field]), str(row[settings.answer_field])
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: not a JSON object ({error}).") from None
    except KeyError as error:
        raise DataError(f"{where}: there is no field {error}; it has {', '.join(row)}.") from None
    if lacking := unusable(settings.verifier, settings.answer_pattern, answer):
        raise DataError(f"{where}: problems.answer_pattern {settings.answer_pattern!r} finds no {lacking} in it.")
    prompt = settings.prompt_template.replace("{prompt}", prompt)
    others = {name: value for name, value in row.items() if name not in (settings.prompt_field, settings.answer_field)}
    return Problem(problem_id(prompt, answer), prompt, answer, difficulty=0, row=others)
