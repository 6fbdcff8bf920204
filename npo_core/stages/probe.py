"""Stage `probe`: the current policy on its past mistakes, and how far each candidate snapshot is from it."""

import time
from functools import partial

from npo_core.control.controller import read_pool
from npo_core.control.probe import choose_mistakes, estimate, from_behind, generated, missed, roll_out, spread
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
    pool = read_pool(context.workspace.snapshot_folder(spec.snapshot)).since(min(steps, default=0))
    policy = load_engine(spec, context, spec.snapshot)
    ask = partial(
        roll_out,
        problems={problem.id: problem for problem in problems.train},
        judge=problems.judge,
        samples=spec.probe.samples,
        max_tokens=spec.max_completion_tokens,
    )
    seed = derive_seed("probe", spec.seed, current.step)
    rollouts = ask(policy, choose_mistakes(pool, spec.probe.prompts), seed=seed)
    at = SnapshotRef(step=current.step, snapshot=current.id)
    found = estimate(
        rollouts,
        at,
        policy,
        {step: (id_, lambda id_=id_: load_engine(spec, context, id_)) for step, id_ in steps.items()},
        len(pool),
        lambda done, total: context.progress(done, total),
    )
    tokens, behind = found.tokens, []
    if fails := [rollout.mistake for rollout in missed(rollouts)]:
        for step in spread(sorted(steps), spec.probe.behind):
            past = load_engine(spec, context, steps[step])
            theirs = ask(past, fails, seed=derive_seed("probe", spec.seed, current.step, "behind", step))
            place = SnapshotRef(step=step, snapshot=steps[step])
            behind.append(from_behind(rollouts, at, place, theirs, past, policy))
            tokens += generated(theirs)
    cost = Cost(tokens_generated=float(tokens), seconds=time.perf_counter() - started)
    return ProbeStageResult(probe=found.model_copy(update={"tokens": tokens, "behind": behind}), cost=cost)


def load_engine(spec: ProbeSpec, context: StageContext, snapshot: str) -> Engine:
    """The engine of a snapshot that is probed, or that answers."""
    batch = spec.probe.prompts * spec.probe.samples
    return snapshot_engine(spec, context, snapshot, batch=batch, bf16=spec.bf16)
