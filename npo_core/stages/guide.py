"""Stage `guide`: offline generation of guidance for a segment, from one later snapshot or a ladder of them."""

import time
from functools import cache
from typing import Any

from npo_core.config import ChainProblems, TracesGuide
from npo_core.control.controller import read_pool
from npo_core.guidance.generate import GuideSource, Judging, Request, Sampling, generate_guidance, here
from npo_core.guidance.shards import merge_shards
from npo_core.problems import Judge, Problem, ProblemSet
from npo_core.problems.judge import make_judge
from npo_core.seeds import derive_seed, rows_met
from npo_core.stages.context import StageContext
from npo_core.stages.engine import at_once
from npo_core.stages.guides import guide_sources, load_engine
from npo_core.stages.problems import examples, problems_like, run_problems
from npo_core.stages.results import Cost, GuideResult
from npo_core.stages.specs import GuideSpec, TrainSpec
from npo_core.stages.traces import write_traces
from npo_core.timeline import Store
from npo_core.timeline.segments import read_outcomes


def run(spec: GuideSpec, context: StageContext) -> GuideResult:
    """Returns the cache's id, its coverage and its cost."""
    started = time.perf_counter()
    workspace = context.workspace
    rollback = workspace.timeline.snapshots.get(spec.rollback)
    problems = run_problems(spec, context, rollback)
    if spec.until is not None:
        requests, skipped = coming_requests(spec, context, problems, spec.until)
    else:
        chosen = failed_requests if spec.failures else segment_requests
        requests, skipped = chosen(spec, context, problems)
    shards = workspace.store.child(spec.folder)
    guides, measured = guide_sources(spec, context, rollback, requests)
    if isinstance(spec.outside, TracesGuide):
        authors = write_traces(spec, spec.outside, context, problems, rollback, requests, shards)
        wrote = [{"id": author, "step": 0} for author in authors]
    else:
        sample_guides(spec, context, problems, requests, guides, shards)
        wrote = [{"id": guide.id, "step": guide.step} for guide in guides]
    info = merge_shards(
        shards,
        workspace.store.child("guidance"),
        **{key: rollback.info[key] for key in ("model", "tokenizer")},
        problems=problems.fingerprint,
        reward_names=list(problems.reward_names),
        eos_token_id=rollback.info["eos_token_ids"],
        sampling=describe_sampling(spec),
        guides=wrote,
        prompts_skipped=skipped,
        seconds=time.perf_counter() - started,
    )
    drawn, tokens = info.samples_drawn, info.tokens_generated + measured
    cost = Cost(tokens_generated=float(tokens), samples=float(drawn), seconds=info.seconds)
    return GuideResult(
        cache=info.id, rows=info.rows, coverage=info.coverage, asked=info.prompts_asked, skipped=skipped, cost=cost
    )


def sample_guides(
    spec: GuideSpec,
    context: StageContext,
    problems: ProblemSet,
    requests: list[Request],
    guides: list[GuideSource],
    shards: Store,
) -> None:
    """Ask the guides, chunk by chunk; where there are processes that generate, each samples and verifies whole ones."""
    from npo_core.engines.dealt import Own

    hosts, few = context.hosts, examples(problems)
    judging: Any = open_judging(spec, few) if hosts is None else Own(hosts, open_judging, spec=spec, few=few)
    generate_guidance(
        requests,
        guides,
        sampling(spec),
        judging,
        shards,
        rollback=cache(lambda: load_engine(spec, context, spec.rollback)),
        seed_of=derive_seed,
        progress=lambda done, total: context.progress(done, total),
        lanes=at_once(spec) * (1 if hosts is None else len(hosts)),
        ask=here if hosts is None else hosts.ask,
    )


def open_judging(spec: GuideSpec, few: list[Problem]) -> Judging:
    """Who says what may guide, in a process that need not have read the problems; `few`: `examples` of them."""
    problems = problems_like(spec, few)
    return Judging(problems, spec.guidance.accept_fallback, second_opinion(spec, problems))


def second_opinion(spec: GuideSpec | TrainSpec, problems: ProblemSet) -> Judge | None:
    """The judge of guidance.verifier, which what the problems' own finds right must also convince; None: there is none.

    The built-in task is verified exactly, and has none.
    """
    if spec.guidance is None or spec.guidance.verifier is None or isinstance(spec.problems, ChainProblems):
        return None
    pattern, example = spec.problems.answer_pattern, problems.train[0]
    return make_judge(spec.guidance.verifier, pattern, spec.execution, example)


def segment_requests(spec: GuideSpec, context: StageContext, problems: ProblemSet) -> tuple[list[Request], int]:
    """The prompts between rollback and guides in the order they were met, and how many were passed already.

    A prompt that was met more than once counts with its first update and its last pass rate.
    """
    by_id = {problem.id: problem for problem in problems.train}
    first, rate = met_prompts(spec, context)
    if spec.pool_only:
        pool = pool_prompts(spec, context)
        first = {id_: step for id_, step in first.items() if id_ in pool}
    wanted = [
        Request(by_id[id_], step)
        for id_, step in first.items()
        if spec.pool_only or not (spec.guidance.skip_passed and rate[id_] >= spec.tau_gate)
    ]
    return wanted, len(first) - len(wanted)


def coming_requests(
    spec: GuideSpec, context: StageContext, problems: ProblemSet, until: int
) -> tuple[list[Request], int]:
    """The prompts that the data's order asks between the rollback and `until`; whoever guides may guide them all."""
    training, start = spec.training, context.workspace.timeline.snapshots.get(spec.rollback).step
    windows = (start // training.updates_per_batch, -(-until // training.updates_per_batch))
    rows = rows_met(len(problems.train), spec.seed, training.prompts_per_step, *windows)
    return [Request(problems.train[row], 0) for row in rows], 0


def failed_requests(spec: GuideSpec, context: StageContext, problems: ProblemSet) -> tuple[list[Request], int]:
    """The mistake pool of the snapshot that training goes on from, oldest failure first."""
    by_id = {problem.id: problem for problem in problems.train}
    pool = read_pool(context.workspace.snapshot_folder(spec.rollback, weights=False))
    return [Request(by_id[id_], 0) for id_ in pool.mistakes], 0


def met_prompts(spec: GuideSpec, context: StageContext) -> tuple[dict[str, int], dict[str, float]]:
    """First update and last pass rate of every prompt that was met after the rollback and up to the last guide."""
    timeline = context.workspace.timeline
    after, until = (timeline.snapshots.get(id_).step for id_ in (spec.rollback, spec.guides[-1]))
    first: dict[str, int] = {}
    rate: dict[str, float] = {}
    for segment in spec.segments:
        for row in read_outcomes(timeline.store, timeline.segment(segment)).to_pylist():
            if after < row["step"] <= until:
                first.setdefault(row["prompt_id"], row["step"])
                rate[row["prompt_id"]] = row["pass_rate"]
    return first, rate


def pool_prompts(spec: GuideSpec, context: StageContext) -> set[str]:
    """The failures since the rollback that the last guide's mistake pool holds."""
    since = context.workspace.timeline.snapshots.get(spec.rollback).step
    return {
        m.prompt_id for m in read_pool(context.workspace.snapshot_folder(spec.guides[-1], weights=False)).since(since)
    }


def sampling(spec: GuideSpec) -> Sampling:
    """How guidance is drawn."""
    names = ("samples", "samples_per_round", "keep", "keep_most", "stop_at_first_correct", "chunk_prompts")
    chosen = {name: getattr(spec.guidance, name) for name in names}
    return Sampling(**chosen, max_tokens=spec.training.max_completion_tokens, seed=spec.seed)


def describe_sampling(spec: GuideSpec) -> dict:
    """What the cache's rows say of how they were drawn; of the engine, where it is not transformers."""
    engine = {} if spec.engine.kind == "transformers" else {"engine": spec.engine.kind}
    sampled = spec.guidance.model_dump(exclude={"chunk_prompts", "batch"})
    return {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **sampled, **engine}
