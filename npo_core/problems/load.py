"""The problems of a run from its configuration."""

import json
import re
from functools import partial
from pathlib import Path

from npo_core.config import ChainProblems, JsonlProblems, Problems
from npo_core.errors import DataError
from npo_core.problems import chain
from npo_core.problems.problem import Outcome, Problem, ProblemSet, problem_id


def load_problems(settings: Problems) -> ProblemSet:
    """Generate or read the problems.

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
    verify = partial(same_final_answer, pattern=re.compile(settings.answer_pattern, re.MULTILINE))
    train, held_out = read_jsonl(settings.train_file, settings), read_jsonl(settings.held_out_file, settings)
    if shared := {p.id for p in train} & {p.id for p in held_out}:
        raise DataError(
            f"{len(shared)} problems are in both {settings.train_file} and {settings.held_out_file}: "
            "remove them from one, or the evaluation measures memory."
        )
    return ProblemSet(train, held_out, verify)


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
    if not re.search(settings.answer_pattern, answer, re.MULTILINE):
        raise DataError(f"{where}: problems.answer_pattern {settings.answer_pattern!r} finds no final answer in it.")
    prompt = settings.prompt_template.replace("{prompt}", prompt)
    return Problem(problem_id(prompt, answer), prompt, answer, difficulty=0)


def same_final_answer(completion: str, answer: str, *, pattern: re.Pattern) -> Outcome:
    """Compare the last matches of the pattern, commas and outer blanks ignored."""
    found = pattern.findall(completion)
    if not found:
        return Outcome.UNPARSABLE
    return Outcome.CORRECT if plain(found[-1]) == plain(pattern.findall(answer)[-1]) else Outcome.WRONG


def plain(text: str) -> str:
    return text.replace(",", "").strip().rstrip(".")
