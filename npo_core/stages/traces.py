"""Completions that somebody wrote as guidance: read, matched to the run's prompts, tokenized, verified, kept."""

from collections import Counter

import numpy as np

from npo_core.config import TracesGuide
from npo_core.errors import DataError
from npo_core.guidance.generate import Request
from npo_core.guidance.shards import PromptCost, write_shard
from npo_core.guidance.traces import read_traces
from npo_core.guidance.trajectory import Trajectory
from npo_core.problems import Completion, Problem, ProblemSet
from npo_core.stages.context import StageContext
from npo_core.stages.specs import GuideSpec
from npo_core.timeline import Snapshot, Store


def write_traces(
    spec: GuideSpec,
    traces: TracesGuide,
    context: StageContext,
    problems: ProblemSet,
    rollback: Snapshot,
    requests: list[Request],
    shards: Store,
) -> list[str]:
    """Commit the verified completions of a file as one shard; the names of who wrote them.

    Each is tokenized with the run's tokenizer, and its end token is added; log-probabilities are unknown (NaN).

    Raises:
        DataError: the file cannot be read, lacks a column, or has no right completion of the prompts that are asked.
    """
    from npo_core.models.load import load_processor

    processor = load_processor(context.workspace.snapshot_folder(rollback.id, weights=False))
    tokenizer = getattr(processor, "tokenizer", processor)
    rows, wanted = read_traces(traces), {request.problem.id for request in requests}
    known = {key: problem for problem in problems.train if problem.id in wanted for key in (problem.id, problem.prompt)}
    found: dict[str, list[tuple[Problem, str, str, list[int]]]] = {}
    for prompt, text, origin in rows:
        if (problem := known.get(prompt)) is not None:
            ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            found.setdefault(problem.id, []).append((problem, text, origin, ids))
    kept, told = verified(spec, problems, found)
    if not kept:
        raise DataError(
            f"mix.guide.path = {traces.path}: of {len(rows)} rows, {told['matched']} are of prompts of this run, "
            f"and none is right ({told['wrong']} wrong, {told['long']} longer than "
            f"training.max_completion_tokens = {spec.training.max_completion_tokens}). Prompts are matched by their "
            f"problem's id or by the whole prompt as the model sees it, such as {problems.train[0].prompt[:200]!r}."
        )
    print({"rows": len(rows), **told, "kept": len(kept)})  # into the stage's log
    write_shard(shards, 0, kept, [PromptCost(request.problem.id, 0, 0) for request in requests])
    return sorted({row.guide for row in kept})


def verified(
    spec: GuideSpec, problems: ProblemSet, found: dict[str, list[tuple[Problem, str, str, list[int]]]]
) -> tuple[list[Trajectory], Counter[str]]:
    """The right ones, `guidance.keep_most` a prompt, and counts of what became of the rest."""
    from npo_core.stages.guide import second_opinion

    rows = [row for of_prompt in found.values() for row in of_prompt]
    told = Counter({"matched": len(rows), "wrong": 0, "long": 0})
    asked = [Completion(problem, text, len(ids), True) for problem, text, _, ids in rows]
    verdicts, opinion = problems.judge(asked), second_opinion(spec, problems)
    seconds = verdicts if opinion is None else opinion(asked)
    accept, kept = spec.guidance.accept_fallback, []
    numbers: Counter[str] = Counter()  # kept of each problem
    for (problem, _, origin, ids), verdict, second in zip(rows, verdicts, seconds, strict=True):
        if len(ids) > spec.training.max_completion_tokens:
            told["long"] += 1
        elif not (verdict.may_guide(accept) and second.may_guide(accept)):
            told["wrong"] += 1
        elif numbers[problem.id] < spec.guidance.keep_most:
            kept.append(trajectory(problem, origin, ids, problems.rewards(verdict), numbers[problem.id]))
            numbers[problem.id] += 1
    return kept, told


def trajectory(problem: Problem, origin: str, ids: list[int], rewards: list[float], number: int) -> Trajectory:
    """A verified completion; `number`: which one of its prompt."""
    return Trajectory(
        prompt_id=problem.id,
        token_ids=np.array(ids, np.int32),
        logprobs=np.full(len(ids), np.nan, np.float32),
        rewards=np.array(rewards, np.float32),
        outcome="correct",
        guide=origin,
        guide_step=0,
        sample=number,
        samples=number + 1,
        seed=0,
    )
