"""`npo problems`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from npo_core.cli.options import AsJson, Overrides, emit, load, parse_overrides, pretrained
from npo_core.cli.output import Data, render

if TYPE_CHECKING:
    from npo_core.config import ChainProblems, RunConfig
    from npo_core.problems import Problem, ProblemSet

EXAMPLES = 3


def problems(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `npo config` explains every field.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Read a configuration's problems as a run would: counts, lengths, what is dropped and why, three examples.

    Reads and checks every row, images too, renders prompts by the model's chat template, and has the verifier judge
    each example's reference as if a model had said it. Nothing is written.

    Example: [cyan]npo problems gsm8k.yaml --set model.path=models/Qwen3-0.6B[/]
    """
    from npo_core.stages.preflight import check_number

    chosen = load(config, parse_overrides(overrides or []))
    found = problems_data(chosen)
    emit(found, show, as_json)
    check_number(found["report"]["train"]["problems"], chosen.training)  # after what shows why there are so few


def problems_data(config: "RunConfig") -> Data:
    """The report of the problems, training problems by difficulty, and the first examples as the model sees them, each
    with the verdict on its own reference.

    Raises:
        DataError, ConfigError: what would keep a run from its start.
    """
    from npo_core.stages.preflight import preflight

    preflight(config, hub=False, weights=False, rows=False)
    problems, note = read(config)
    shown = problems.train[:EXAMPLES]
    examples = [asdict(p) | {"verdict": v} for p, v in zip(shown, verdicts(problems, shown), strict=True)]
    levels = Counter(problem.difficulty for problem in problems.train)
    return {
        "name": config.name,
        "report": problems.report,
        "by_difficulty": {str(level): levels[level] for level in sorted(levels)},
        "fingerprint": problems.fingerprint,
        "note": note,
        "examples": examples,
    }


def verdicts(problems: "ProblemSet", asked: "Sequence[Problem]") -> list[Data]:
    """What the judge says of each problem's reference as completion; unknown values are None."""
    from npo_core.problems import Completion

    found = problems.judge([Completion(problem, problem.answer, 1, finished=True) for problem in asked])
    known = [{"accuracy": v.accuracy, "reward": v.reward} for v in found]
    return [
        {"outcome": verdict.outcome.value, **{name: None if isnan(x) else x for name, x in values.items()}}
        for verdict, values in zip(found, known, strict=True)
    ]


def read(config: "RunConfig") -> tuple["ProblemSet", str]:
    """The problems, and a note where they are shown without the model's tokenizer."""
    from npo_core.config import ChainProblems
    from npo_core.errors import ConfigError, DataError, HubError
    from npo_core.hub import is_path
    from npo_core.problems.data import without_template
    from npo_core.problems.load import load_problems
    from npo_core.problems.tokenizer import make_tokenizer
    from npo_core.stages.base import processor_for

    if isinstance(config.problems, ChainProblems):
        problems = load_problems(config.problems)
        return with_report(problems, config.problems, make_tokenizer()), ""
    path = pretrained(config).path
    try:
        processor = processor_for(config.problems, path)
    except (DataError, HubError, ConfigError) as error:
        if isinstance(error, ConfigError) and (is_path(path) or Path(path).exists()):
            raise
        note = f"Shown as plain text, without chat template and lengths, for there is no tokenizer. {error}"
        return load_problems(without_template(config.problems), config.execution), note
    return load_problems(config.problems, config.execution, processor), ""


def with_report(problems: "ProblemSet", settings: "ChainProblems", tokenizer: Any) -> "ProblemSet":
    """The built-in task with a report like that of data."""
    from dataclasses import replace

    from npo_core.problems.data import part_report, token_lengths

    report = {
        name: part_report(f"built-in task, seed {settings.seed}", len(part), part, [], tokens)
        for name, part in (("train", problems.train), ("held_out", problems.held_out))
        for tokens in [list(token_lengths([p.prompt for p in part], tokenizer))]
    }
    return replace(problems, report=report)


def show(data: Data, console: Console) -> None:
    """Print counts, lengths, notes and the example prompts."""
    from npo_core.problems.values import visible
    from npo_core.reporting.tables import Table, problems_table

    render(problems_table(data["report"]), console)
    if len(data["by_difficulty"]) > 1:
        rows = [[level, f"{count:,}"] for level, count in data["by_difficulty"].items()]
        render(Table("Training problems by difficulty", ["difficulty", "problems"], rows), console)
    if data["note"]:
        console.print(Text(data["note"], "yellow"), soft_wrap=True)
    for example in data["examples"]:
        images = f"   {len(example['images'])} images" if example["images"] else ""
        title = f"{example['id']}   answer: {visible(final_line(example['answer']))}{images}"
        verdict = Text(f"the reference as completion: {in_words(example['verdict'])}")
        text = Text(visible(example["prompt"]))
        console.print(Panel(text, title=Text(title), title_align="left", subtitle=verdict, subtitle_align="left"))


def in_words(verdict: Data) -> str:
    """`correct, reward 0.85`; the reward only where it is not the accuracy."""
    reward = "unknown" if verdict["reward"] is None else f"{verdict['reward']:g}"
    plain = verdict["reward"] is not None and verdict["reward"] == float(verdict["outcome"] == "correct")
    return verdict["outcome"] + ("" if plain else f", reward {reward}")


def final_line(answer: str) -> str:
    """The end of an answer, where its final part usually is."""
    return answer.strip().splitlines()[-1][-60:]
