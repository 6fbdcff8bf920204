"""Stage `probe`: the current policy on its past mistakes, and how far each candidate snapshot is from it."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from npo_core.control.controller import read_pool
from npo_core.control.probe import (
    Candidate,
    Rollout,
    choose_mistakes,
    estimate,
    from_behind,
    generated,
    missed,
    roll_out,
    score,
    spread,
)
from npo_core.engines import Engine
from npo_core.seeds import derive_seed
from npo_core.stages.context import StageContext
from npo_core.stages.engine import snapshot_engine
from npo_core.stages.problems import run_problems
from npo_core.stages.results import Cost, ProbeStageResult
from npo_core.stages.specs import ProbeSpec
from npo_core.timeline import SnapshotRef


def run(spec: ProbeSpec, context: StageContext) -> ProbeStageResult:
    """Returns the probe's estimates and its cost."""
    started = time.perf_counter()
    snapshots = context.workspace.timeline.snapshots
    current = snapshots.get(spec.snapshot)
    problems = run_problems(spec, context, current)
    steps = {snapshots.get(id_).step: id_ for id_ in spec.candidates}
    reach = min(steps, default=0 if spec.now else current.step)
    pool = read_pool(context.workspace.snapshot_folder(spec.snapshot, weights=False)).since(reach)
    ask = partial(
        roll_out,
        problems={problem.id: problem for problem in problems.train},
        judge=problems.judge,
        samples=spec.probe.samples,
        max_tokens=spec.max_completion_tokens,
    )
    at = SnapshotRef(step=current.step, snapshot=current.id)
    seed = derive_seed("probe", spec.seed, at.step)
    policy = load_engine(spec, context, at.snapshot)
    rollouts = ask(policy, choose_mistakes(pool, spec.probe.prompts), seed=seed)
    own = score(policy, rollouts)
    del policy  # one model at a time: the largest fill their GPUs
    found = estimate(
        rollouts,
        own,
        at,
        {step: (id_, partial(load_engine, spec, context, id_)) for step, id_ in steps.items()},
        len(pool),
        lambda done, total: context.progress(done, total),
    )
    behind, tokens = look_behind(spec, context, rollouts, at, steps, ask)
    found = found.model_copy(update={"behind": behind, "tokens": found.tokens + tokens})
    cost = Cost(tokens_generated=float(found.tokens), seconds=time.perf_counter() - started)
    return ProbeStageResult(probe=found, cost=cost)


def look_behind(
    spec: ProbeSpec,
    context: StageContext,
    rollouts: list[Rollout],
    at: SnapshotRef,
    steps: dict[int, str],
    ask: Callable[..., list[Rollout]],
) -> tuple[list[Candidate], int]:
    """What snapshots behind make of what the current policy misses, and the tokens that they generated."""
    fails = [rollout.mistake for rollout in missed(rollouts)]
    chosen = spread(sorted(steps), spec.probe.behind) if fails else []
    asked: list[tuple[SnapshotRef, list[Rollout], list[np.ndarray]]] = []
    for step in chosen:
        past = load_engine(spec, context, steps[step])
        theirs = ask(past, fails, seed=derive_seed("probe", spec.seed, at.step, "behind", step))
        asked.append((SnapshotRef(step=step, snapshot=steps[step]), theirs, score(past, theirs)))
        del past
    if not asked:
        return [], 0
    policy = load_engine(spec, context, at.snapshot)
    found = [from_behind(rollouts, at, place, theirs, own, policy) for place, theirs, own in asked]
    return found, sum(generated(theirs) for _, theirs, _ in asked)


def load_engine(spec: ProbeSpec, context: StageContext, snapshot: str) -> Engine:
    """The engine of a snapshot that is probed, or that answers."""
    batch = spec.probe.batch or spec.probe.prompts * spec.probe.samples
    return snapshot_engine(spec, context, snapshot, batch=batch, bf16=spec.bf16)
