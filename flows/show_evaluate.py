"""What `npo evaluate` does and prints."""

import os
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

from flows.show import Data, render

if TYPE_CHECKING:
    from npo_core.config import RunConfig
    from npo_core.engines import Engine
    from npo_core.problems import ProblemSet


def evaluate_data(config: "RunConfig") -> Data:
    """The score of `model.path` on the held-out problems.

    Raises:
        DataError, ConfigError: model or problems cannot be used, before anything is generated.
    """
    from npo_core.stages.launch import environment

    os.environ |= environment(config.execution)
    from npo_core.evaluation.passrate import score_problems
    from npo_core.training.exact import derive_seed

    problems, path = read_problems(config), config.model.path
    engine = load_engine(config)
    samples, asked, limit = config.evaluation.samples, len(problems.held_out), config.training.max_completion_tokens
    print(f"Asking {path} {asked:,} problems, {samples} times each, on {engine.device}.", file=sys.stderr, flush=True)
    started = time.perf_counter()
    score = score_problems(engine, problems, samples=samples, max_tokens=limit, seed=derive_seed("evaluation"))
    return {"model": path, "name": config.name, "seconds": time.perf_counter() - started, **score.as_dict()}


def load_engine(config: "RunConfig") -> "Engine":
    """Raises DataError where the model is none."""
    from npo_core.engines.open import open_engine
    from npo_core.stages.base import no_model
    from npo_core.stages.execute import prepare_device

    device = prepare_device(config.execution)
    try:
        return open_engine(config.model.path, device=device, batch=config.evaluation.batch)
    except (OSError, ValueError) as error:
        raise no_model(config.model.path, error) from None


def read_problems(config: "RunConfig") -> "ProblemSet":
    """The problems, rendered for the model."""
    from npo_core.config import ChainProblems
    from npo_core.problems.load import load_problems
    from npo_core.stages.base import refuse_images, tokenizer_for

    if isinstance(config.problems, ChainProblems):
        return load_problems(config.problems)
    tokenizer = tokenizer_for(config.problems, config.model.path)
    refuse_images(config.problems)
    return load_problems(config.problems, config.execution, tokenizer)


def evaluate(data: Data, console: Console) -> None:
    from npo_core.reporting.tables import Table, number, plus_minus

    rows = [["pass@1", plus_minus(data["pass_rate"], 1.96 * data["standard_error"])]]
    for k, value in data["pass_at_k"].items():
        if k != "1":
            rows.append([f"pass@{k}", plus_minus(value, 1.96 * data["pass_at_k_error"][k])])
    if len(data["by_difficulty"]) > 1:
        rows += [[f"pass@1, difficulty {level}", number(rate, 3)] for level, rate in data["by_difficulty"].items()]
    counts = [("problems", "problems"), ("samples a problem", "samples"), ("generated tokens", "tokens")]
    counts += [("answers cut off", "unfinished"), ("answers without a verdict", "unverified"), ("seconds", "seconds")]
    rows += [[words, number(data[name])] for words, name in counts]
    note = (
        "± is 1.96 standard errors over problems. pass@1 is the mean over all samples (avg@k); pass@k is the unbiased "
        "estimate from them. Sampled at temperature 1."
    )
    render(Table(f"Held-out problems of {data['name']}", ["", "value"], rows, note), console)
