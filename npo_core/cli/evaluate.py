"""`npo evaluate`."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from npo_core.cli.options import AsJson, Overrides, emit, load, parse_overrides, pretrained
from npo_core.cli.output import Data, render

if TYPE_CHECKING:
    from npo_core.config import RunConfig
    from npo_core.engines import Engine
    from npo_core.problems import ProblemSet


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
    from npo_core.stages.forked import environment
    from npo_core.stages.preflight import preflight

    config = load(data, {"model": {"kind": "pretrained", "path": model}, **parse_overrides(overrides or [])})
    preflight(config, rows=False)
    os.environ |= environment(config.execution)  # before torch is imported: threads
    emit(evaluate_data(config), show, as_json)


def evaluate_data(config: "RunConfig") -> Data:
    """The score of `model.path` on the held-out problems.

    Raises:
        DataError, ConfigError: model or problems cannot be used, before anything is generated.
    """
    from npo_core.evaluation import passrate
    from npo_core.process import quiet_stdout
    from npo_core.seeds import derive_seed

    device, path = usable_device(config), pretrained(config).path
    problems = read_problems(config)
    with quiet_stdout():  # code of a model or a library may print
        engine = load_engine(config, device)
    samples, limit = config.evaluation.samples, config.training.max_completion_tokens
    asked = sum(map(len, [problems.held_out, *problems.benchmarks.values()]))
    print(f"Asking {path} {asked:,} problems, {samples} times each, on {device}.", file=sys.stderr, flush=True)
    started = time.perf_counter()
    with quiet_stdout():
        scores = passrate.evaluate(engine, problems, samples=samples, max_tokens=limit, seed=derive_seed("evaluation"))
    seconds = time.perf_counter() - started
    told = {"model": path, "name": config.name, "seconds": seconds, "max_completion_tokens": limit}
    return told | scores.model_dump(mode="json")


def usable_device(config: "RunConfig") -> str:
    """The device. Raises ConfigError where there is none as configured, or no such engine."""
    from npo_core.engines.open import require_engine
    from npo_core.stages.execute import prepare_device

    device = prepare_device(config.execution)
    require_engine(config.engine, gpu=device == "cuda")
    return device


def load_engine(config: "RunConfig", device: str) -> "Engine":
    """Raises DataError where the model is none."""
    from npo_core.engines.open import open_engine
    from npo_core.stages.base import no_model

    model, batch, bf16 = pretrained(config), config.evaluation.batch, config.training.bf16
    try:
        return open_engine(model.path, config.engine, device=device, batch=batch, attention=model.attention, bf16=bf16)
    except (OSError, ValueError) as error:
        raise no_model(model.path, error) from None


def read_problems(config: "RunConfig") -> "ProblemSet":
    """The problems, rendered for the model."""
    from npo_core.config import ChainProblems
    from npo_core.problems.load import load_problems
    from npo_core.stages.base import processor_for

    if isinstance(config.problems, ChainProblems):
        return load_problems(config.problems)
    processor = processor_for(config.problems, pretrained(config).path)
    return load_problems(config.problems, config.execution, processor, held_out_only=True)


def show(data: Data, console: Console) -> None:
    """Print the scores, and those of further data sets."""
    from npo_core.reporting.evaluation import data_sets_table, score_table

    render(score_table(f"Held-out problems of {data['name']}", data), console)
    if (further := data_sets_table(data)) is not None:
        render(further, console)
