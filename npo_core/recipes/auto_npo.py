"""AutoNPO (paper, section 3.3): training that decides by itself when to intervene and how far to roll back.

train until the signals warn -> probe -> decide -> guidance from the current policy -> roll back -> replay -> go on

Where its settings allow it, it may decide to stay where it is instead: the failures come again, and more samples of the
current policy (Delta = 0) or a snapshot behind guide them.
"""

from dataclasses import dataclass, replace

from npo_core.config import RunConfig
from npo_core.control.decision import Decision
from npo_core.errors import ConfigError
from npo_core.recipes.early_bootstrap import bootstrap
from npo_core.recipes.steps import Report, Steps
from npo_core.timeline import SnapshotRef


@dataclass(frozen=True)
class Position:
    """How far the run is: branch, snapshot, why training ended there, and how often it intervened."""

    branch: str
    at: SnapshotRef
    ended: str = "until"
    interventions: int = 0


def auto_npo(do: Steps) -> Report:
    """Train, and where the signals warn of a plateau, decide whether to roll back and replay guided."""
    check_budget(do.config)
    now = begin(do)
    decisions = declined = quiet_until = 0  # declined: decisions in a row that did not intervene
    while (now := train_on(do, now, quiet_until)).ended == "warning":
        decisions += 1
        decision = do.approve(decide(do, now, decisions))
        declined = 0 if decision.intervene else declined + 1
        if decision.intervene:
            now = (rescue if decision.rollback is None else replay)(do, now, decision)
        quiet_until = now.at.step + do.config.auto.cooldown * 2**declined
    do.evaluate()
    return do.report()


def check_budget(config: RunConfig) -> None:
    """Refuse a budget that does not reach to the end of the bootstrap, before anything is bound to it.

    Raises:
        ConfigError: names budget and scout.
    """
    budget, scout = config.auto.budget_updates, config.scout_steps
    if config.auto.bootstrap == "scout" and budget is not None and budget < 2 * scout:
        raise ConfigError(
            f"auto.budget_updates = {budget} is less than the {2 * scout} updates of scout and replay with "
            f"bootstrap.scout_steps = {scout}: shorten the scout, or give a larger budget."
        )


def begin(do: Steps) -> Position:
    """The base model, or the end of an early-stage bootstrapping as the first intervention."""
    base = do.base()
    if do.config.auto.bootstrap == "scout":
        return Position("replay", bootstrap(do, base, watched=True).last)
    do.branch("main", at=base, reason="AutoNPO")
    return Position("main", base)


def train_on(do: Steps, now: Position, quiet_until: int) -> Position:
    """Train until the signals warn after `quiet_until`, or to the end of the run or of its budget."""
    auto, end, budget = do.config.auto, do.config.training.steps, do.budget
    until = end if budget.updates is None else min(end, now.at.step + budget.updates)
    if until <= now.at.step or budget.tokens == 0:
        return replace(now, ended="until")
    trained = do.train(
        now.branch,
        start=now.at,
        until=until,
        fresh=now.interventions if auto.fresh_randomness else 0,
        quiet_until=quiet_until if now.interventions < auto.max_interventions else until,
        token_limit=budget.tokens,
    )
    return replace(now, at=trained.last, ended=trained.ended)


def decide(do: Steps, now: Position, number: int) -> Decision:
    """Probe the current policy on its past failures, where the budget allows it, and decide from that."""
    auto, tokens = do.config.auto, do.budget.tokens
    earliest = now.at.step - auto.choice.max_delta
    candidates = [id_ for step, id_ in do.snapshots(now.branch).items() if earliest <= step < now.at.step]
    most = auto.probe.prompts * auto.probe.samples * do.config.training.max_completion_tokens * (1 + auto.probe.behind)
    probed = do.probe(number, now.at, candidates) if tokens is None or tokens >= most else None
    budget = do.budget.model_copy(update={"interventions": auto.max_interventions - now.interventions})
    return do.decide(number, now.branch, now.at, probed, budget)


def replay(do: Steps, now: Position, decision: Decision) -> Position:
    """The current policy guides its pool's slice; roll back and replay up to where it stands."""
    auto, number, rollback = do.config.auto, now.interventions + 1, decision.back_to
    guidance = None
    if auto.guided:
        guidance = do.guide([now.at], rollback=rollback, branch=now.branch, pool_only=True)

    branch = f"replay-{number}"
    do.branch(branch, at=rollback, reason=f"decision {decision.number}", guidance=guidance)
    trained = do.train(
        branch,
        start=rollback,
        until=now.at.step,
        guidance=guidance,
        fresh=number if auto.fresh_randomness else 0,
        quiet_until=now.at.step,
        token_limit=do.budget.tokens,
    )
    do.outcome(decision, branch)
    return Position(branch, trained.last, trained.ended, number)


def rescue(do: Steps, now: Position, decision: Decision) -> Position:
    """Without a rollback: failures come again until they are solved, with extra samples or a guide from behind."""
    guide, config, budget = decision.guide, do.config, do.budget.updates
    guidance = None if guide is None else do.guide_failures(guide, at=now.at)
    until = min(config.training.steps, now.at.step + config.auto.rescue.updates)
    until = until if budget is None else min(until, now.at.step + budget)
    trained = do.train(
        now.branch,
        start=now.at,
        until=until,
        guidance=guidance,
        fresh=now.interventions if config.auto.fresh_randomness else 0,
        quiet_until=until,
        token_limit=do.budget.tokens,
        rescue=True,
    )
    do.outcome(decision, now.branch)
    return Position(now.branch, trained.last, trained.ended, now.interventions + 1)
