"""Task: pass rate of snapshots on the held-out problems."""

from collections.abc import Sequence
from typing import Literal

from prefect import task

from npo_core.evaluation.score import SnapshotScore
from npo_core.reporting.intervals import of_score
from npo_core.stages.launch import StageResult
from npo_core.stages.results import EvaluateResult
from npo_core.stages.specs import EvaluateSpec
from tasks.artifacts import key_of, publish, table
from tasks.outside import pausable
from tasks.perform import perform, worth_retrying


@task(name="evaluate", task_run_name="evaluate", retry_condition_fn=worth_retrying)
@pausable
def evaluate(spec: EvaluateSpec, label: str, run_name: str) -> StageResult[EvaluateResult]:
    """Every snapshot is asked the same held-out problems with the same seed."""
    result = perform(spec, label, run_name)
    scores = result.result.scores
    further = [score for score in scores if score.benchmarks]
    publish(
        key_of(run_name, "evaluation"),
        "Pass rate on held-out problems",
        "## Evaluation",
        lines(scores, "by_difficulty"),
        *(["### Benchmarks", lines(further, "benchmarks")] if further else []),
        "### Cost",
        table(result.cost.as_dict()),
        "### Settings",
        table(spec.evaluation.model_dump(), ("setting", "value")),
    )
    return result


def lines(scores: Sequence[SnapshotScore], parts: Literal["by_difficulty", "benchmarks"]) -> str:
    """Pass rates by step, and by difficulty or further data set."""
    names = list(getattr(scores[0], parts))
    head = [f"difficulty {name}" if parts == "by_difficulty" else name for name in names]
    table = [["step", "pass rate", "95 %", *head], ["---"] * (3 + len(names))]
    for score in scores:
        found = [getattr(part := getattr(score, parts)[name], "pass_rate", part) for name in names]
        low, high = of_score(score.model_dump())
        table.append([str(score.step), f"{score.pass_rate:.3f}", f"{low:.3f} to {high:.3f}"])
        table[-1] += [f"{rate:.3f}" for rate in found]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)
