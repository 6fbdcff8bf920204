"""`npo problems`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from npo_core.cli.options import AsJson, Overrides, emit, load, parse_overrides
from npo_core.cli.output import Data, render

if TYPE_CHECKING:
    from npo_core.config import Problems, RunConfig
    from npo_core.problems import ProblemSet

EXAMPLES = 3


def problems(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `npo config` explains every field.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Read a configuration's problems as a run would: counts, lengths, what is dropped and why, three examples.

    Reads and checks every row, images too, and renders prompts by the model's chat template. Nothing is written.

    Example: [cyan]npo problems gsm8k.yaml --set model.path=models/Qwen3-0.6B[/]
    """
    chosen = load(config, parse_overrides(overrides or []))
    emit(problems_data(chosen), show, as_json)


def problems_data(config: "RunConfig") -> Data:
    """The report of the problems, training problems by difficulty, and the first examples as the model sees them.

    Raises:
        DataError, ConfigError: what would keep a run from its start.
    """
    problems, note = read(config)
    levels = Counter(problem.difficulty for problem in problems.train)
    return {
        "name": config.name,
        "report": problems.report,
        "by_difficulty": {str(level): levels[level] for level in sorted(levels)},
        "fingerprint": problems.fingerprint,
        "note": note,
        "examples": [asdict(problem) for problem in problems.train[:EXAMPLES]],
    }


def read(config: "RunConfig") -> tuple["ProblemSet", str]:
    """The problems, and a note where they are shown without the model's tokenizer."""
    from npo_core.config import ChainProblems
    from npo_core.errors import DataError
    from npo_core.problems.data import without_template
    from npo_core.problems.load import load_problems
    from npo_core.problems.tokenizer import make_tokenizer
    from npo_core.stages.base import processor_for

    if isinstance(config.problems, ChainProblems):
        problems = load_problems(config.problems)
        return with_report(problems, config.problems, make_tokenizer()), ""
    try:
        processor = processor_for(config.problems, config.model.path)
    except DataError as error:
        note = f"Shown as plain text, without chat template and lengths, for there is no tokenizer. {error}"
        return load_problems(without_template(config.problems), config.execution), note
    return load_problems(config.problems, config.execution, processor), ""


def with_report(problems: "ProblemSet", settings: "Problems", tokenizer: Any) -> "ProblemSet":
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
        console.print(Panel(Text(visible(example["prompt"])), title=Text(title), title_align="left"))


def final_line(answer: str) -> str:
    """The end of an answer, where its final part usually is."""
    return answer.strip().splitlines()[-1][-60:]
