"""The command that evaluates any checkpoint."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, Overrides, emit, parse_overrides


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder in the Hugging Face layout, or a hub id.")],
    data: Annotated[Path, typer.Option(help="Configuration whose held-out problems, verifier and limits are used.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model the held-out problems of a configuration: pass@1, pass@k, by difficulty, with intervals.

    MODEL need not come from a run. A snapshot of a run gets the scores that the run's own evaluation gave it.

    Example: [cyan]npo evaluate Qwen/Qwen3-0.6B --data gsm8k.yaml --set evaluation.samples=8[/]
    """
    from flows import show_evaluate
    from npo_core.config import load_config
    from npo_core.stages.forked import environment

    config = load_config(data, {"model": {"kind": "pretrained", "path": model}, **parse_overrides(overrides or [])})
    os.environ |= environment(config.execution)  # before torch is imported: threads
    emit(show_evaluate.evaluate_data(config), show_evaluate.evaluate, as_json)
