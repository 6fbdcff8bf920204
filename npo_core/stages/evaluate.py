"""Stage `evaluate`: pass rate of snapshots on the held-out problems."""

import time
from functools import cache

from npo_core.config import DataProblems
from npo_core.evaluation import passrate
from npo_core.evaluation.score import SnapshotScore
from npo_core.problems import ProblemSet
from npo_core.seeds import derive_seed
from npo_core.stages.context import StageContext
from npo_core.stages.engine import snapshot_engine
from npo_core.stages.problems import run_problems
from npo_core.stages.results import Cost, EvaluateResult
from npo_core.stages.specs import EvaluateSpec


def run(spec: EvaluateSpec, context: StageContext) -> EvaluateResult:
    """Returns a list of scores, one a snapshot in the order given; each is kept as soon as it is found."""
    store = context.workspace.store.child(f"evaluations/{spec.protocol}")
    started, scores = time.perf_counter(), []
    snapshots = context.workspace.timeline.snapshots
    problems = cache(lambda: run_problems(spec, context, snapshots.get(spec.snapshots[0])))  # read where one is left
    for number, snapshot in enumerate(spec.snapshots, 1):
        kept = store.read_json(f"{snapshot}.json", default=None)
        score = None if kept is None else SnapshotScore.model_validate(kept)
        benchmarks = asks_benchmarks(spec, snapshot)
        if score is None or (benchmarks and not score.benchmarks):
            score = evaluate(spec, context, problems(), snapshot, benchmarks)
            store.write_json(f"{snapshot}.json", score.model_dump(mode="json"))
        scores.append(score)
        context.progress(number, len(spec.snapshots), step=score.step, pass_rate=score.pass_rate)
    tokens = float(sum(part.tokens for score in scores for part in [score, *score.benchmarks.values()]))
    cost = Cost(tokens_generated=tokens, seconds=time.perf_counter() - started)
    return EvaluateResult(scores=scores, cost=cost)


def asks_benchmarks(spec: EvaluateSpec, snapshot: str) -> bool:
    """Whether a snapshot is asked the further data sets too."""
    chosen = spec.evaluation.benchmarks == "all" or snapshot == spec.snapshots[-1]
    return chosen and isinstance(spec.problems, DataProblems) and bool(spec.problems.benchmarks)


def evaluate(
    spec: EvaluateSpec, context: StageContext, problems: ProblemSet, id_: str, benchmarks: bool
) -> SnapshotScore:
    """The score of one snapshot; every snapshot is asked the same problems with the same seed."""
    scores = passrate.evaluate(
        snapshot_engine(spec, context, id_, batch=spec.evaluation.batch, bf16=spec.bf16),
        problems,
        benchmarks=benchmarks,
        samples=spec.evaluation.samples,
        max_tokens=spec.max_completion_tokens,
        seed=derive_seed("evaluation"),
    )
    step = context.workspace.timeline.snapshots.get(id_).step
    return SnapshotScore(snapshot=id_, step=step, **scores.model_dump())
