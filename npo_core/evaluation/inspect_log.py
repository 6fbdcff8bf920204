"""An evaluation as a log of Inspect (JSON, version 2), which its viewer and its `read_eval_log` open.

Inspect itself is not asked: it holds fsspec below what data sets need here, and writing its format takes a page.
"""

import json
import math
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from npo_core.errors import ConfigError
from npo_core.evaluation.score import Score
from npo_core.problems import Completion, Problem, Verdict

SCORER = "verifier"


class Sample(NamedTuple):
    """One answer to a problem, and what the verifier said."""

    completion: Completion
    verdict: Verdict


def require_writable(file: Path) -> None:
    """Raises ConfigError where the log cannot be written there, before anything is generated."""
    if not file.parent.is_dir() or file.is_dir() or file.suffix != ".json":
        raise ConfigError(f"--log {file}: name a file that ends in .json, in a folder that is there.")


def write_log(
    file: Path, samples: list[Sample], score: Score, *, task: str, model: str, config: dict[str, Any], started: datetime
) -> None:
    """Write one data set's evaluation.

    Args:
        samples: of every problem all answers, one after the other.
        task: name of what was asked; Inspect shows it.
        config: what decided the answers: max_tokens, seed, temperature.
    """
    dataset = {"name": task, "samples": score.problems, "sample_ids": list({s.completion.problem.id for s in samples})}
    record = {
        "version": 2,
        "status": "success",
        "eval": {
            "created": moment(started),
            "task": task,
            "dataset": dataset,
            "model": f"npo/{model}",
            "model_generate_config": config,
            "config": {"epochs": score.samples},
        },
        "results": results(score, len(samples)),
        "stats": {"started_at": moment(started), "completed_at": moment(datetime.now(UTC))},
        "samples": rows(samples, f"npo/{model}"),
    }
    file.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")


def moment(when: datetime) -> str:
    """A time as Inspect writes it."""
    return when.isoformat(timespec="seconds")


def results(score: Score, answers: int) -> dict[str, Any]:
    """The figures of all answers: accuracy (pass@1) with its standard error, and pass@k."""
    values = {"accuracy": score.pass_rate, "stderr": score.standard_error}
    values |= {f"pass_at_{k}": value for k, value in score.pass_at_k.items()}
    metrics = {name: {"name": name, "value": value} for name, value in values.items()}
    found = {"name": SCORER, "scorer": SCORER, "metrics": metrics, "unscored_samples": score.unverified}
    return {"total_samples": answers, "completed_samples": answers, "scores": [found]}


def rows(samples: list[Sample], model: str) -> list[dict[str, Any]]:
    """The answers as samples: epoch k is a problem's k-th answer."""
    epochs: dict[str, int] = defaultdict(int)
    found = []
    for sample in samples:
        epochs[sample.completion.problem.id] += 1
        found.append(row(sample, epochs[sample.completion.problem.id], model))
    return found


def row(sample: Sample, epoch: int, model: str) -> dict[str, Any]:
    """One answer; without a score where nobody could tell whether it is right."""
    completion, verdict = sample
    problem: Problem = completion.problem
    message = {"role": "assistant", "content": completion.text, "source": "generate"}
    choice = {"message": message, "stop_reason": "stop" if completion.finished else "max_tokens"}
    score = {"value": verdict.accuracy, "explanation": verdict.outcome.value}
    return {
        "id": problem.id,
        "epoch": epoch,
        "input": problem.prompt,
        "target": problem.answer,
        "messages": [{"role": "user", "content": problem.prompt}, message],
        "output": {"model": model, "choices": [choice], "completion": completion.text},
        "scores": {} if math.isnan(verdict.accuracy) else {SCORER: score},
        "metadata": {"difficulty": problem.difficulty, "outcome": verdict.outcome.value, "tokens": completion.tokens},
    }
