"""`npo evaluate`."""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from npo_core.cli.options import AsJson, Overrides, emit, load, parse_overrides, pretrained
from npo_core.cli.output import Data, render

if TYPE_CHECKING:
    from npo_core.config import RunConfig
    from npo_core.engines import Engine
    from npo_core.evaluation import passrate
    from npo_core.evaluation.score import HeldOutScore
    from npo_core.problems import ProblemSet


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder in the Hugging Face layout, or a hub id.")],
    data: Annotated[Path, typer.Option(help="Configuration whose held-out problems, verifier and limits are used.")],
    overrides: Overrides = None,
    log: Annotated[
        Path | None, typer.Option(help="Also write every answer, as a log that Inspect's viewer opens (FILE.json).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model the held-out problems of a configuration: pass@1, pass@k, by difficulty, with intervals.

    MODEL need not come from a run. A snapshot of a run gets the scores that the run's own evaluation gave it.

    Example: [cyan]npo evaluate Qwen/Qwen3-0.6B --data gsm8k.yaml --set evaluation.samples=8[/]
    """
    from npo_core.evaluation.inspect_log import require_writable
    from npo_core.stages.forked import environment
    from npo_core.stages.preflight import preflight

    config = load(data, {"model": {"kind": "pretrained", "path": model}, **parse_overrides(overrides or [])})
    preflight(config, rows=False)
    if log is not None:
        require_writable(log)
    os.environ |= environment(config.execution)  # before torch is imported: threads
    emit(evaluate_data(config, log), show, as_json)


def evaluate_data(config: "RunConfig", log: Path | None = None) -> Data:
    """The score of `model.path` on the held-out problems; `log` takes the answers.

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
    started, began = time.perf_counter(), datetime.now(UTC)
    seed = derive_seed("evaluation")
    kept: dict[str, passrate.Samples] = {}
    with quiet_stdout():
        scores = passrate.evaluate(engine, problems, samples=samples, max_tokens=limit, seed=seed, kept=kept)
    seconds = time.perf_counter() - started
    if log is not None:
        for name, answers in kept.items():
            write_data_set(log, name, answers, scores, config, began)
    told = {"model": path, "name": config.name, "seconds": seconds, "max_completion_tokens": limit}
    return told | scores.model_dump(mode="json")


def write_data_set(
    log: Path, name: str, answers: "passrate.Samples", scores: "HeldOutScore", config: "RunConfig", began: datetime
) -> None:
    """Write the log of a data set: `log` itself for the held-out problems, `FILE-NAME.json` for a further one."""
    from npo_core.evaluation.inspect_log import Sample, write_log

    file = log.with_stem(f"{log.stem}-{name}") if name else log
    score = scores.benchmarks[name] if name else scores
    task = f"{config.name}, {name or 'held-out'}"
    told = {"max_tokens": config.training.max_completion_tokens, "temperature": 1.0}
    samples = [Sample(*answer) for answer in answers]
    write_log(file, samples, score, task=task, model=pretrained(config).path, config=told, started=began)
    print(f"Wrote {file}: inspect view --log-dir {file.parent} shows it.", file=sys.stderr, flush=True)


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
