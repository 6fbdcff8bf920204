"""What a recipe keeps beside its stages: branches, decisions, approvals, outcomes."""

from collections.abc import Callable

from npo_core.config import Plateau
from npo_core.control.breakthrough import plan_rollback as rollback_decision
from npo_core.control.decide import decide as make_decision
from npo_core.control.decision import Budget, Decision
from npo_core.control.outcome import compare_branches
from npo_core.control.path import path_rows
from npo_core.control.records import Approval, Decisions, Result
from npo_core.errors import ApprovalNeeded, ConfigError
from npo_core.names import AUTO_NPO, PLATEAU
from npo_core.recipes.run import Run
from npo_core.recipes.steps import Guidance, Probed
from npo_core.timeline import Branch, SnapshotRef


def open_branch(run: Run, name: str, at: SnapshotRef, reason: str, guidance: Guidance | None) -> Branch:
    """A branch at a snapshot; the files of this are checked where the branch is new."""
    timeline = run.workspace.timeline
    snapshot = timeline.snapshots.get(at.snapshot)
    if all(branch.name != name for branch in timeline.branches()):
        run.workspace.snapshot_folder(at.snapshot, whole=True)
    guides, cache = (guidance.guides, guidance.cache) if guidance else ([], None)
    branch = Branch(name=name, parent=at.snapshot, parent_step=snapshot.step, reason=reason, guide=guides, cache=cache)
    return timeline.add_branch(branch)


def decide(run: Run, number: int, branch: str, at: SnapshotRef, probed: Probed | None, budget: Budget) -> Decision:
    """AutoNPO's decision after a warning; what was decided before is never decided again.

    Raises:
        ConfigError: another recipe intervened on this run in the meantime.
    """
    decisions = Decisions(run.workspace.store)
    decision = decisions.get(number) or decisions.add(
        make_decision(
            run.config,
            path_rows(run.workspace.timeline, branch, at.step),
            probed.result if probed else None,
            budget,
            number=number,
            flow=AUTO_NPO,
            branch=branch,
            at=at,
            probe_id=probed.fingerprint if probed else None,
        )
    )
    if (decision.flow, decision.snapshot) != (AUTO_NPO, at.snapshot):
        raise ConfigError(
            f"Decision {number} of {run.workspace.uri} was made by {decision.flow} at step {decision.step} before "
            "auto-npo got there: let auto-npo end first, or give it a workspace of its own."
        )
    return decision


def planned(run: Run, plateau: Plateau) -> Decision | None:
    """The intervention that was planned with the same settings before, to be taken up."""
    wanted = plateau.model_dump(mode="json")
    plans = [d for d in Decisions(run.workspace.store).all() if d.flow == PLATEAU and d.thresholds == wanted]
    return next((d for d in plans if d.intervene), None)


def plan_rollback(run: Run, plateau: Plateau, branch: str, guide: SnapshotRef) -> Decision:
    """Where the plateau of a branch began, as a decision; what was found before is not recorded twice."""
    timeline, decisions = run.workspace.timeline, Decisions(run.workspace.store)
    rows, states, before = path_rows(timeline, branch, guide.step), timeline.states(branch), decisions.all()
    found = rollback_decision(plateau, rows, states, number=len(before) + 1, branch=branch, guide=guide)
    same = [d for d in before if d == found.model_copy(update={"number": d.number})]
    return same[0] if same else decisions.add(found)


def approve(run: Run, decision: Decision, ask: Callable[[Run, Decision], Approval]) -> Decision:
    """The decision as it is carried out; `ask` is told to get an answer where one is needed and none was given.

    Raises:
        ApprovalNeeded: somebody has to answer, and `ask` cannot wait for them.
    """
    if not decision.intervene or run.config.auto.approval == "auto":
        return decision
    decisions = Decisions(run.workspace.store)
    approval = decisions.approval(decision.number)
    if approval is None:
        approval = decisions.add_approval(decision.number, ask(run, decision))
    return decision.answered(approval.answer, approval.delta)


def ask_later(run: Run, decision: Decision) -> Approval:
    """Nobody can be asked here: the run ends, and goes on once it was answered from a terminal."""
    raise ApprovalNeeded(
        f"Decision {decision.number} at step {decision.step} waits for approval: {decision.reason} Answer with "
        f"`npo approve {run.workspace.uri} --accept` (or --delta N, --decline) and start the same command again."
    )


def record_outcome(run: Run, decision: Decision, replay: str) -> Result:
    """The replay against the abandoned branch, on the same prompts."""
    result = compare_branches(run.workspace.timeline, decision, replay)
    return Decisions(run.workspace.store).add_result(result)
