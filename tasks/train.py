"""Task: train one segment of a branch."""

from prefect import task

from npo_core.reporting.samples import samples_markdown, segment_groups
from npo_core.reporting.segment import segment_metrics, segment_png, segment_rows
from npo_core.stages.launch import StageResult
from npo_core.stages.results import TrainResult
from npo_core.stages.specs import TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.tracking import links
from tasks.artifacts import Section, key_of, picture, publish, table, trackers
from tasks.assets import snapshots_made
from tasks.outside import pausable
from tasks.perform import perform, worth_retrying

SAMPLES = 6  # groups in an artifact


@task(name="train", task_run_name="{label}", retry_condition_fn=worth_retrying)
@pausable
def train(spec: TrainSpec, label: str, run_name: str) -> StageResult[TrainResult]:
    """From a snapshot to a step, guided where a cache is given; goes on from its newest snapshot after any end."""
    result = perform(spec, label, run_name)
    publish(
        key_of(run_name, label), f"{label}: metrics of the segment and what it cost", *describe(spec, label, result)
    )
    publish_samples(spec, label, run_name, result)
    snapshots_made(Workspace(spec.workspace), run_name, result, result.result.snapshots, spec.start)
    return result


def publish_samples(spec: TrainSpec, label: str, run_name: str, result: StageResult[TrainResult]) -> None:
    """Groups of the newest batch of which completions were logged, as an artifact; without such, none."""
    workspace = Workspace(spec.workspace)
    groups = list(segment_groups(workspace.store, workspace.timeline.segment(result.result.segment), last=True))
    if not groups:
        return
    publish(
        key_of(run_name, label, "samples"),
        f"{label}: samples of its newest batch",
        f"## {label}: samples at step {groups[-1].step}",
        "What the policy did not write itself is marked with `>`.",
        samples_markdown(groups[:SAMPLES]),
        f"All of them, with filters: `npo samples {spec.workspace} --html samples.html`",
    )


def describe(spec: TrainSpec, label: str, result: StageResult[TrainResult]) -> list[Section]:
    """The sections of the artifact: what went in, what came out, the curves, the cost."""
    workspace = Workspace(spec.workspace)
    segment = workspace.timeline.segment(result.result.segment)
    metrics = segment_metrics(workspace.store, segment)
    return [
        f"## {label}",
        table(
            {
                "from snapshot": f"`{spec.start}` (step {segment.t0})",
                "to snapshot": f"`{segment.end}` (step {segment.t1})",
                "branch": spec.branch,
                "guidance cache": f"`{spec.cache}`" if spec.cache else "none",
                "snapshots": ", ".join(f"{step}: `{id_[:6]}`" for step, id_ in sorted(segment.snapshots.items())),
            }
        ),
        "### Metrics",
        table(segment_rows(metrics), ("", "mean over the segment, first fifth → last fifth")),
        "### Curves",
        lambda: picture(segment_png(metrics), label),
        "### Cost",
        table(result.cost.as_dict()),
        trackers(links(workspace.store)),
        "### Settings",
        table({**spec.training.model_dump(), **spec.injection.model_dump()}, ("setting", "value")),
    ]
