"""The command that shows what a run would be asked."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, Overrides, emit, parse_overrides


def problems(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `npo config` explains every field.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Read a configuration's problems as a run would: counts, lengths, what is dropped and why, three examples.

    Reads and checks every row, images too, and renders prompts by the model's chat template. Nothing is written.

    Example: [cyan]npo problems gsm8k.yaml --set model.path=models/Qwen3-0.6B[/]
    """
    from flows import show_problems
    from npo_core.config import load_config

    chosen = load_config(config, parse_overrides(overrides or []))
    emit(show_problems.problems_data(chosen), show_problems.problems, as_json)
