"""Flow: AutoNPO. Training that decides by itself when to intervene and how far to roll back.

train until the signals warn -> probe -> decide -> guidance from the current policy -> roll back -> replay -> go on
"""

from dataclasses import dataclass, replace

from prefect import flow

from flows.approval import approved
from flows.early_bootstrap import bootstrap
from flows.workspace import choose_workspace
from npo_core.config import RunConfig
from npo_core.control.decision import Decision, Place
from npo_core.errors import ConfigError
from tasks.base import make_base
from tasks.decide import make_decision, record_outcome
from tasks.evaluate import evaluate
from tasks.guide import generate_guidance
from tasks.plan import check_plan
from tasks.probe import probe
from tasks.report import report
from tasks.rollback import open_branch
from tasks.run import open_run
from tasks.steps import Steps


@dataclass(frozen=True)
class Here:
    """Where the run stands: branch, step, snapshot, why training ended there, and how often it intervened."""

    branch: str
    step: int
    snapshot: str
    ended: str = "until"
    interventions: int = 0


@flow(name="auto-npo", flow_run_name="{config.name} seed {config.seed}")
def auto_npo(config: RunConfig, workspace: str | None = None, baseline: str | None = None) -> dict:
    """Train, and where the signals warn of a plateau, decide whether to roll back and replay guided.

    Args:
        config: Everything that decides the run; `auto` says when it intervenes and how far it rolls back.
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of a GRPO run, to compare with in the report.
    """
    check_budget(config)
    place = choose_workspace(workspace, config.name)
    check_plan(config, place, "auto-npo")
    with open_run(config, place) as run:
        do = Steps(run)
        here = begin(do)
        decisions = declined = quiet_until = 0  # declined: decisions in a row that did not intervene
        while (here := train_on(do, here, quiet_until)).ended == "warning":
            decisions += 1
            made = approved(run, decide(do, here, decisions))
            declined = 0 if made.intervene else declined + 1
            if made.intervene:
                here = intervene(do, here, made)
            quiet_until = here.step + config.auto.cooldown * 2**declined
        branches = [branch.name for branch in run.workspace.timeline.branches()]
        do(evaluate, run.evaluate(do.evaluated(*branches)), config.name)
        return do(report, run, baseline)


def check_budget(config: RunConfig) -> None:
    """Refuse a budget that does not reach to the end of the bootstrap, before anything is bound to it.

    Raises:
        ConfigError: names budget and scout.
    """
    budget, scout = config.auto.budget_updates, config.bootstrap.scout_steps
    if config.auto.bootstrap == "scout" and budget is not None and budget < 2 * scout:
        raise ConfigError(
            f"auto.budget_updates = {budget} is less than the {2 * scout} updates of scout and replay with "
            f"bootstrap.scout_steps = {scout}: shorten the scout, or give a larger budget."
        )


def begin(do: Steps) -> Here:
    """The base model, or the end of an early-stage bootstrapping as the first intervention."""
    run = do.run
    base = do(make_base, run.base(), run.config.name).result["snapshot"]
    if run.config.auto.bootstrap == "scout":
        replay = bootstrap(do, base, watched=True)
        return Here("replay", replay.step, replay.end)
    do(open_branch, run, "main", at=base, reason="AutoNPO")
    return Here("main", 0, base)


def train_on(do: Steps, here: Here, quiet_until: int) -> Here:
    """Train until the signals warn after `quiet_until`, or to the end of the run or of its budget."""
    auto, end, left = do.run.config.auto, do.run.config.training.steps, do.left()
    until = end if left.updates is None else min(end, here.step + left.updates)
    if until <= here.step or left.tokens == 0:
        return replace(here, ended="until")
    trained = do.train(
        here.branch,
        start=here.snapshot,
        until=until,
        fresh=here.interventions if auto.fresh_randomness else 0,
        quiet_until=quiet_until if here.interventions < auto.max_interventions else until,
        token_limit=left.tokens,
    )
    return replace(here, step=trained.step, snapshot=trained.end, ended=trained.ended)


def decide(do: Steps, here: Here, number: int) -> Decision:
    """Probe the current policy on its past failures, where the budget allows it, and decide from that."""
    run, reach = do.run, do.run.config.auto.choice.max_delta
    states = run.workspace.timeline.states(here.branch)
    candidates = [id_ for step, id_ in states.items() if here.step - reach <= step < here.step]
    spec, tokens = run.probe(snapshot=here.snapshot, candidates=candidates), do.left().tokens
    seen = None
    if tokens is None or tokens >= spec.probe.prompts * spec.probe.samples * spec.max_completion_tokens:
        seen = do(probe, spec, f"probe {number} at step {here.step}", run.config.name)
    left = do.left().model_copy(update={"interventions": run.config.auto.max_interventions - here.interventions})
    return do(make_decision, run, number, here.branch, Place(step=here.step, snapshot=here.snapshot), seen, left)


def intervene(do: Steps, here: Here, made: Decision) -> Here:
    """The current policy guides its pool's slice; roll back and replay up to where it stands."""
    run, auto = do.run, do.run.config.auto
    timeline, number = run.workspace.timeline, here.interventions + 1
    cache = None
    if auto.guided:
        segments = [segment.id for segment in timeline.path(here.branch) if segment.t1 > made.rollback.step]
        spec = run.guide(guides=[here.snapshot], rollback=made.rollback.snapshot, segments=segments, pool_only=True)
        cache = do(generate_guidance, spec, run.config.name).result["cache"]
    branch, guides = f"replay-{number}", [here.snapshot] if auto.guided else []
    reason = f"decision {made.number}"
    do(open_branch, run, branch, at=made.rollback.snapshot, reason=reason, guide=guides, cache=cache)
    replay = do.train(
        branch,
        start=made.rollback.snapshot,
        until=here.step,
        cache=cache,
        fresh=number if auto.fresh_randomness else 0,
        quiet_until=here.step,
        token_limit=do.left().tokens,
    )
    do(record_outcome, run, made, branch)
    return Here(branch, replay.step, replay.end, replay.ended, number)
