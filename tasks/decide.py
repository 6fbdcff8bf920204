"""Tasks: decide whether to intervene and how far to roll back; and record what came of it."""

from prefect import task

from npo_core.config import Plateau
from npo_core.control.breakthrough import plan
from npo_core.control.decide import decide
from npo_core.control.decision import AUTO_NPO, PLATEAU, Decision, Left, Place
from npo_core.control.outcome import compare_branches, replayed_rows
from npo_core.control.path import path_rows
from npo_core.control.probe import ProbeResult
from npo_core.control.records import Decisions, Result
from npo_core.errors import ConfigError
from npo_core.reporting.decisions import (
    candidates_table,
    decision_png,
    outcome_png,
    outcome_table,
    thresholds_table,
    verdict,
)
from npo_core.reporting.tables import markdown
from npo_core.stages.launch import StageResult
from tasks.artifacts import key_of, picture, publish, table
from tasks.perform import worth_retrying
from tasks.run import Run


@task(name="decide", task_run_name="decide at step {at.step}", retry_condition_fn=worth_retrying)
def make_decision(run: Run, number: int, branch: str, at: Place, probe: StageResult | None, left: Left) -> Decision:
    """AutoNPO's decision after a warning; what was decided before is never decided again.

    Raises:
        ConfigError: another flow intervened on this run in the meantime.
    """
    decisions = Decisions(run.workspace.store)
    made = decisions.get(number) or decisions.add(
        decide(
            run.config.auto,
            path_rows(run.workspace.timeline, branch, at.step),
            ProbeResult.model_validate(probe.result["probe"]) if probe else None,
            left,
            number=number,
            flow=AUTO_NPO,
            branch=branch,
            at=at,
            probe_id=probe.fingerprint if probe else None,
            guide_samples=run.config.guidance.samples,
        )
    )
    if (made.flow, made.snapshot) != (AUTO_NPO, at.snapshot):
        raise ConfigError(
            f"Decision {number} of {run.workspace.uri} was made by {made.flow} at step {made.step} before auto-npo got "
            "there: let auto-npo end first, or give it a workspace of its own."
        )
    publish_decision(run, made)
    return made


def publish_decision(run: Run, made: Decision) -> None:
    """The decision as an artifact: what a person needs to judge it."""
    timeline = run.workspace.timeline
    rows = path_rows(timeline, made.branch, made.step)
    candidates = ["### Candidates", markdown(candidates_table(made))] if made.candidates else []
    expected = {"optimizer updates": made.expected["updates"], "generated tokens": made.expected["tokens"]}
    left = {f"{name} left before": value for name, value in made.left.model_dump().items() if value is not None}
    publish(
        key_of(run.config.name, "decision", f"{made.number:04d}"),
        f"Decision {made.number} at step {made.step}: {verdict(made)}",
        f"## Decision {made.number} at step {made.step}: {verdict(made)}",
        made.reason,
        lambda: picture(decision_png(made, rows), f"decision {made.number}"),
        *candidates,
        "### Expected cost",
        table({**expected, **left}),
        "### Thresholds",
        markdown(thresholds_table(made)),
        "### Branches so far",
        f"```\n{timeline.draw()}\n```",
        f"Branch {made.branch}, snapshot `{made.snapshot}`. To make it once more from its records, or with other "
        f"thresholds: `npo decide {run.workspace.uri} --at {made.step}`",
    )


@task(name="compare-branches", task_run_name="outcome of decision {decision.number}", retry_condition_fn=worth_retrying)
def record_outcome(run: Run, decision: Decision, replay: str) -> Result:
    """The replay against the abandoned branch, on the same prompts."""
    timeline = run.workspace.timeline
    result = Decisions(run.workspace.store).add_result(compare_branches(timeline, decision, replay))
    rows = replayed_rows(timeline, decision, replay)
    publish(
        key_of(run.config.name, "decision", f"{decision.number:04d}", "outcome"),
        f"What decision {decision.number} brought: pass rate {result.difference:+.3f} against the abandoned branch",
        f"## Outcome of decision {decision.number}",
        f"The pass rate of {replay} minus that of the abandoned branch {decision.branch}, in training and on the same "
        f"prompts: {result.difference:+.3f}.",
        lambda: picture(outcome_png(result, *rows), f"outcome {decision.number}"),
        markdown(outcome_table(result)),
        "### Branches so far",
        f"```\n{timeline.draw()}\n```",
    )
    return result


def planned_before(run: Run, plateau: Plateau) -> Decision | None:
    """The intervention that was planned with the same settings before, to be taken up."""
    wanted = plateau.model_dump(mode="json")
    plans = [d for d in Decisions(run.workspace.store).all() if d.flow == PLATEAU and d.thresholds == wanted]
    return next((d for d in plans if d.intervene), None)


@task(name="find-rollback", task_run_name="find the plateau", retry_condition_fn=worth_retrying)
def find_rollback(run: Run, plateau: Plateau, branch: str, guide: Place) -> Decision:
    """Where the plateau of a branch began, as a decision's record; what was found before is not recorded twice."""
    timeline, decisions = run.workspace.timeline, Decisions(run.workspace.store)
    rows, states, before = path_rows(timeline, branch, guide.step), timeline.states(branch), decisions.all()
    found = plan(plateau, rows, states, number=len(before) + 1, branch=branch, guide=guide)
    same = [d for d in before if d == found.model_copy(update={"number": d.number})]
    made = same[0] if same else decisions.add(found)
    publish_decision(run, made)
    return made
