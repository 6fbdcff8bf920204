"""Tasks: decide whether to intervene and how far to roll back; and record what came of it."""

from prefect import task

from npo_core.config import Plateau
from npo_core.control.breakthrough import FLOW, plan
from npo_core.control.decide import decide
from npo_core.control.decision import Decision, Left, Place
from npo_core.control.outcome import compare_branches
from npo_core.control.probe import ProbeResult
from npo_core.control.records import Decisions, Result
from npo_core.control.way import way_rows
from npo_core.stages.launch import StageResult
from tasks.artifacts import key_of, publish, table
from tasks.perform import worth_retrying
from tasks.run import Run


@task(name="decide", task_run_name="decide at step {at.step}", retry_condition_fn=worth_retrying)
def make_decision(run: Run, number: int, branch: str, at: Place, probe: StageResult, left: Left) -> Decision:
    """AutoNPO's decision after a warning; what was decided before is never decided again."""
    decisions = Decisions(run.workspace.store)
    made = decisions.get(number) or decisions.add(
        decide(
            run.config.auto,
            way_rows(run.workspace.timeline, branch, at.step),
            ProbeResult.model_validate(probe.result["probe"]),
            left,
            number=number,
            flow="auto-npo",
            branch=branch,
            at=at,
            probe_id=probe.fingerprint,
            guide_samples=run.config.guidance.samples,
        )
    )
    publish_decision(run, made)
    return made


def publish_decision(run: Run, made: Decision) -> None:
    """The decision as an artifact."""
    publish(
        key_of(run.config.name, "decision", f"{made.number:04d}"),
        f"Decision {made.number} at step {made.step}: {'roll back' if made.intervene else 'do not intervene'}",
        f"## Decision {made.number} at step {made.step}",
        made.reason,
    )


@task(name="compare-branches", task_run_name="outcome of decision {decision.number}", retry_condition_fn=worth_retrying)
def record_outcome(run: Run, decision: Decision, replay: str) -> Result:
    """The replay against the abandoned branch, on the same prompts."""
    timeline = run.workspace.timeline
    found = compare_branches(timeline, decision, replay)
    result = Decisions(run.workspace.store).add_result(found)
    publish(
        key_of(run.config.name, "decision", f"{decision.number:04d}", "outcome"),
        f"What decision {decision.number} brought",
        f"## Outcome of decision {decision.number}",
        table(result.model_dump()),
    )
    return result


def planned_before(run: Run, plateau: Plateau) -> Decision | None:
    """The intervention that was planned with the same settings before, to be taken up."""
    wanted = plateau.model_dump(mode="json")
    plans = [d for d in Decisions(run.workspace.store).all() if d.flow == FLOW and d.thresholds == wanted]
    return next((d for d in plans if d.intervene), None)


@task(name="find-rollback", task_run_name="find the plateau", retry_condition_fn=worth_retrying)
def find_rollback(run: Run, plateau: Plateau, branch: str, guide: Place) -> Decision:
    """Where the plateau of a branch began, as a decision's record."""
    timeline, decisions = run.workspace.timeline, Decisions(run.workspace.store)
    rows, states = way_rows(timeline, branch, guide.step), timeline.states(branch)
    number = len(decisions.all()) + 1
    made = decisions.add(plan(plateau, rows, states, number=number, branch=branch, guide=guide))
    publish_decision(run, made)
    return made
