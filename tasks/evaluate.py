"""Task: pass rate of snapshots on the held-out problems."""

from prefect import task

from npo_core.stages.launch import StageResult
from npo_core.stages.specs import EvaluateSpec
from tasks.artifacts import key_of, publish, table
from tasks.perform import perform, worth_retrying


@task(name="evaluate", task_run_name="evaluate", retry_condition_fn=worth_retrying)
def evaluate(spec: EvaluateSpec, run_name: str) -> StageResult:
    """Every snapshot is asked the same held-out problems with the same seed."""
    result = perform(spec, "evaluate", run_name)
    scores = result.result["scores"]
    levels = list(scores[0]["by_difficulty"])
    lines = [
        f"| step | pass rate | ± 1.96 s.e. | {' | '.join(f'difficulty {level}' for level in levels)} |",
        "|---" * (3 + len(levels)) + "|",
    ]
    for s in scores:
        graded = " | ".join(f"{s['by_difficulty'][level]:.3f}" for level in levels)
        lines.append(f"| {s['step']} | {s['pass_rate']:.3f} | {1.96 * s['standard_error']:.3f} | {graded} |")
    publish(
        key_of(run_name, "evaluation"),
        "Pass rate on held-out problems",
        "## Evaluation",
        "\n".join(lines),
        "### Cost",
        table(result.cost),
        "### Settings",
        table(spec.evaluation.model_dump(), ("setting", "value")),
    )
    return result
