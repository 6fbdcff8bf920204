"""Flow: late-stage plateau breakthrough (paper, section 3.1), on a run that was trained before or is trained here.

find the plateau -> the later snapshot guides -> roll back -> replay guided -> go on unguided -> evaluate -> report
"""

from prefect import flow
from prefect.runtime import flow_run

from flows.workspace import choose_workspace
from npo_core.config import Plateau, RunConfig
from npo_core.control.breakthrough import branch_name, rollback_step
from npo_core.control.decision import Decision, Place
from npo_core.errors import ConfigError
from npo_core.stages.workspace import Workspace
from tasks.base import make_base
from tasks.decide import find_rollback, planned_before, record_outcome
from tasks.evaluate import evaluate
from tasks.guide import generate_guidance
from tasks.plan import check_plan
from tasks.report import report
from tasks.rollback import open_branch
from tasks.run import Run, open_run
from tasks.steps import Steps


def run_name() -> str:
    """The workspace's own name, as the configuration may be left out."""
    workspace = flow_run.parameters.get("workspace") or "a new run"
    return f"plateau of {workspace.rstrip('/').rsplit('/', 1)[-1]}"


@flow(name="plateau-breakthrough", flow_run_name=run_name)
def plateau_breakthrough(
    workspace: str | None = None,
    plateau: Plateau = Plateau(),  # noqa: B008, a frozen model
    config: RunConfig | None = None,
    baseline: str | None = None,
) -> dict:
    """Roll a run back to where its plateau began and replay it guided by its own later snapshot.

    The same settings on the same run are the same intervention, taken up where it was.

    Args:
        workspace: Folder or s3:// URI of the run. Empty: a new folder, where plain GRPO is trained first.
        plateau: Where to roll back to and which snapshot guides; what is left out is found.
        config: Everything that decides the run. Empty: the run's own; needed where the workspace holds none yet.
        baseline: Folder or s3:// URI of another run, to compare with in the report.
    """
    if not workspace and config is None:
        raise ConfigError("plateau-breakthrough needs a workspace with a run, or a config to train one: give either.")
    place = choose_workspace(workspace, config.name if config else "")
    config = config or Workspace(place).config()
    check_plan(config, place, "plateau-breakthrough")
    with open_run(config, place) as run:
        do = Steps(run)
        base = do(make_base, run.base(), run.config.name).result["snapshot"]
        made = planned_before(run, plateau) or find(do, plateau, base)
        last = break_through(do, plateau, made) if made.intervene else made.branch
        do(evaluate, run.evaluate(do.evaluated(made.branch, last)), run.config.name)
        return do(report, run, baseline)


def find(do: Steps, plateau: Plateau, base: str) -> Decision:
    """Train as far as the guide, if need be, and find where to roll back to."""
    run, timeline = do.run, do.run.workspace.timeline
    check_end(run, plateau)
    if plateau.branch is None and timeline.final() is None:
        do(open_branch, run, "main", at=base, reason="GRPO")
    branch = timeline.branch(plateau.branch).name if plateau.branch else timeline.final().name
    states = timeline.states(branch)
    newest = max(states)
    guide = plateau.guide_step or max(newest, run.config.training.steps)
    to_come = [step for step in range(0, guide, run.config.training.snapshot_every) if step > newest]
    rollback_step(plateau, [], [step for step in [*states, *to_come] if step < guide])  # refused before training
    if guide > newest:
        trained = do.train(branch, start=states[newest], until=guide)
        states |= trained.snapshots
    if guide not in states:
        raise ConfigError(
            f"plateau.guide_step = {guide}: branch {branch} has snapshots of the steps "
            f"{', '.join(map(str, sorted(states)))}; choose one of them, or a later step."
        )
    return do(find_rollback, run, plateau, branch, Place(step=guide, snapshot=states[guide]))


def break_through(do: Steps, plateau: Plateau, made: Decision) -> str:
    """Guidance from the later snapshot, rollback, guided replay, and on; the new branch."""
    run, timeline, name = do.run, do.run.workspace.timeline, branch_name(made)
    cache, guides = None, []
    if plateau.guided:
        segments = [segment.id for segment in timeline.path(made.branch) if segment.t1 > made.rollback.step]
        spec = run.guide(guides=[made.snapshot], rollback=made.rollback.snapshot, segments=segments)
        cache, guides = do(generate_guidance, spec, run.config.name).result["cache"], [made.snapshot]
    reason = f"plateau breakthrough, decision {made.number}"
    do(open_branch, run, name, at=made.rollback.snapshot, reason=reason, guide=guides, cache=cache)
    fresh = int(plateau.fresh_randomness)
    replay = do.train(name, start=made.rollback.snapshot, until=made.step, cache=cache, fresh=fresh)
    do(record_outcome, run, made, name)
    end = plateau.until or max(run.config.training.steps, made.step)
    if end > made.step:
        do.train(name, start=replay.end, until=end, fresh=fresh)
    return name


def check_end(run: Run, plateau: Plateau) -> None:
    """Refuse steps that cannot be trained, before anything is.

    Raises:
        ConfigError: the end lies before the guide, or beyond the learning rate's schedule.
    """
    training = run.config.training
    guide, end = plateau.guide_step or 0, plateau.until or 0
    if 0 < end < guide:
        raise ConfigError(
            f"plateau.until = {end} is before plateau.guide_step = {guide}: the replay ends at the guide."
        )
    if max(guide, end) > training.steps and not training.lr_schedule.startswith("constant"):
        raise ConfigError(
            f"plateau.until or guide_step = {max(guide, end)} is beyond training.steps = {training.steps}, where the "
            f"learning rate of training.lr_schedule = {training.lr_schedule} has ended: stay within it."
        )
