"""Tasks: decide whether to intervene and how far to roll back; and record what came of it."""

from prefect import task
from prefect.events import emit_event

from npo_core.config import Plateau
from npo_core.control.decision import Budget, Decision
from npo_core.control.outcome import replayed_rows
from npo_core.control.path import path_rows
from npo_core.control.records import Result
from npo_core.recipes import records
from npo_core.recipes.run import Run
from npo_core.recipes.steps import Probed
from npo_core.reporting.decisions import (
    candidates_table,
    decision_png,
    outcome_png,
    outcome_table,
    prices_table,
    thresholds_table,
    verdict,
)
from npo_core.reporting.tables import markdown
from npo_core.timeline import SnapshotRef
from tasks.artifacts import key_of, picture, publish, table
from tasks.perform import worth_retrying

DECIDED = "npo.decision.made"


@task(name="decide", task_run_name="decide at step {at.step}", retry_condition_fn=worth_retrying)
def decide(run: Run, number: int, branch: str, at: SnapshotRef, probed: Probed | None, budget: Budget) -> Decision:
    """AutoNPO's decision after a warning."""
    decision = records.decide(run, number, branch, at, probed, budget)
    publish_decision(run, decision)
    return decision


@task(name="find-rollback", task_run_name="find the plateau", retry_condition_fn=worth_retrying)
def plan_rollback(run: Run, plateau: Plateau, branch: str, guide: SnapshotRef) -> Decision:
    """Where the plateau of a branch began, as a decision's record."""
    decision = records.plan_rollback(run, plateau, branch, guide)
    publish_decision(run, decision)
    return decision


def publish_decision(run: Run, decision: Decision) -> None:
    """The decision as an event, and as an artifact: what a person needs to judge it."""
    text = f"Decision {decision.number} at step {decision.step}: {verdict(decision)}. {decision.reason}"
    resource = {"prefect.resource.id": f"npo.workspace.{run.workspace.uri}", "prefect.resource.name": run.config.name}
    told = {"workspace": run.workspace.uri, "intervene": decision.intervene, "text": text}
    emit_event(DECIDED, resource=resource, payload=told)
    timeline = run.workspace.timeline
    rows = path_rows(timeline, decision.branch, decision.step)
    tables = {"### Candidates": candidates_table(decision), "### Prices": prices_table(decision)}
    candidates = [text for head, found in tables.items() if found.rows for text in (head, markdown(found))]
    expected = {"optimizer updates": decision.expected["updates"], "generated tokens": decision.expected["tokens"]}
    left = {f"{name} left before": value for name, value in decision.left.model_dump().items() if value is not None}
    publish(
        key_of(run.config.name, "decision", f"{decision.number:04d}"),
        f"Decision {decision.number} at step {decision.step}: {verdict(decision)}",
        f"## Decision {decision.number} at step {decision.step}: {verdict(decision)}",
        decision.reason,
        lambda: picture(decision_png(decision, rows), f"decision {decision.number}"),
        *candidates,
        "### Expected cost",
        table({**expected, **left}),
        "### Thresholds",
        markdown(thresholds_table(decision)),
        "### Branches so far",
        f"```\n{timeline.draw()}\n```",
        f"Branch {decision.branch}, snapshot `{decision.snapshot}`. To make it once more from its records, or with "
        f"other thresholds: `npo decide {run.workspace.uri} --at {decision.step}`",
    )


@task(name="compare-branches", task_run_name="outcome of decision {decision.number}", retry_condition_fn=worth_retrying)
def record_outcome(run: Run, decision: Decision, replay: str) -> Result:
    """The replay against the abandoned branch, on the same prompts."""
    timeline, result = run.workspace.timeline, records.record_outcome(run, decision, replay)
    rows = replayed_rows(timeline, decision, replay)
    brought = f"{result.groups_rescued} groups that were all wrong got a trajectory"
    told = f"The branch {replay} went on without a rollback: {brought}."
    if result.difference is not None:
        brought = f"pass rate {result.difference:+.3f} against the abandoned branch"
        told = (
            f"The pass rate of {replay} minus that of the abandoned branch {decision.branch}, in training and on the "
            f"same prompts: {result.difference:+.3f}."
        )
    publish(
        key_of(run.config.name, "decision", f"{decision.number:04d}", "outcome"),
        f"What decision {decision.number} brought: {brought}",
        f"## Outcome of decision {decision.number}",
        told,
        lambda: picture(outcome_png(result, *rows), f"outcome {decision.number}"),
        markdown(outcome_table(result)),
        "### Branches so far",
        f"```\n{timeline.draw()}\n```",
    )
    return result
