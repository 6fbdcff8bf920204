"""Offline generation of guidance: guides sample, the verifier filters, one trajectory a prompt is kept.

With several guides (a ladder) each prompt takes the nearest later snapshot that solves it: guides are asked in rising
order, each only about the prompts that it is later than and that no nearer guide has solved.
Finished chunks of prompts are committed as shards, so that a killed stage goes on with what it had.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from npo_core.engines import Engine, Generated
from npo_core.guidance.shards import Attempt, done_shards, read_shard_ids, write_shard
from npo_core.guidance.trajectory import Trajectory
from npo_core.problems import Completion, Problem, ProblemSet, Verdict
from npo_core.timeline.store import Store


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that wants guidance, and the first optimizer update of the segment that trains on it."""

    problem: Problem
    update: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a prompt is sampled; see `npo_core.config.Guidance` for the words."""

    samples: int
    samples_per_round: int
    keep: str
    stop_at_first_correct: bool
    chunk_prompts: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class GuideSource:
    """A later snapshot that writes trajectories. `load` gives its engine when it is first needed."""

    id: str
    step: int
    load: Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A correct completion, which of the prompt's samples it was, and its rewards."""

    sample: int
    generated: Generated
    rewards: list[float]


def generate_guidance(
    requests: Sequence[Request],
    guides: Sequence[GuideSource],
    sampling: Sampling,
    problems: ProblemSet,
    shards: Store,
    *,
    rollback: Callable[[], Engine],
    seed_of: Callable[..., int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask the guides and commit what they solve as shards; merged afterwards by `merge_shards`.

    Args:
        requests: in the order of the segment. guides: rising by step.
        rollback: engine of the policy that will be trained, for keep = closest.
        seed_of: derives a seed from parts. progress: told (chunks done, chunks in all) after each chunk.
    """
    solved: set[str] = set()
    committed = set(done_shards(shards))
    index = 0
    for rung, guide in enumerate(guides):
        asked = [r for r in requests if r.update <= guide.step and r.problem.id not in solved]
        engine: Engine | None = None
        chunks = list(split(asked, sampling.chunk_prompts))
        for number, chunk in enumerate(chunks):
            if index not in committed:
                engine = engine or guide.load()
                seed = seed_of("guidance", sampling.seed, guide.step, number)
                trajectories, attempts = ask(engine, guide, chunk, sampling, problems, rollback, seed, seed_of)
                write_shard(shards, index, trajectories, attempts)
            solved.update(read_shard_ids(shards, index))
            index += 1
            progress(1000 * rung + 1000 * (number + 1) // len(chunks), 1000 * len(guides))


def split(rows: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def ask(
    engine: Engine,
    guide: GuideSource,
    chunk: Sequence[Request],
    sampling: Sampling,
    problems: ProblemSet,
    rollback: Callable[[], Engine],
    seed: int,
    seed_of: Callable[..., int],
) -> tuple[list[Trajectory], list[Attempt]]:
    """Sample one chunk in rounds; solved prompts leave the batch when sampling stops at the first correct one."""
    found: dict[str, list[Candidate]] = {r.problem.id: [] for r in chunk}
    drawn = dict.fromkeys(found, 0)
    tokens = dict.fromkeys(found, 0)
    pending = [r.problem for r in chunk]
    for start in range(0, sampling.samples, sampling.samples_per_round):
        width = min(sampling.samples_per_round, sampling.samples - start)
        answers = engine.generate(pending, samples=width, max_tokens=sampling.max_tokens, seed=seed_of(seed, start))
        for problem, completions, right in zip(
            pending, answers, correct(problems, pending, answers, start), strict=True
        ):
            drawn[problem.id] += width
            tokens[problem.id] += sum(len(c.token_ids) for c in completions)
            found[problem.id] += right
        if sampling.stop_at_first_correct:
            pending = [p for p in pending if not found[p.id]]
        if not pending:
            break
    kept = keep_one(chunk, found, sampling.keep, rollback)
    attempts = [Attempt(r.problem.id, drawn[r.problem.id], tokens[r.problem.id]) for r in chunk]
    return record(engine, guide, kept, drawn, seed), attempts


def correct(
    problems: ProblemSet, asked: Sequence[Problem], answers: Sequence[Sequence[Generated]], start: int
) -> Iterator[list[Candidate]]:
    """Of each prompt, the completions that are verified correct; all are judged at once."""
    rows = [(problem, c) for problem, completions in zip(asked, answers, strict=True) for c in completions]
    verdicts = iter(problems.judge([Completion(p, c.text, len(c.token_ids), c.finished) for p, c in rows]))
    for completions in answers:
        judged = zip(completions, islice(verdicts, len(completions)), strict=True)
        yield [Candidate(start + i, c, problems.rewards(v)) for i, (c, v) in enumerate(judged) if usable(v)]


def usable(verdict: Verdict) -> bool:
    """Whether a completion can be guidance: right, and with a reward that is known."""
    return verdict.correct is True and not math.isnan(verdict.reward)


def keep_one(
    chunk: Sequence[Request], found: dict[str, list[Candidate]], keep: str, rollback: Callable[[], Engine]
) -> list[tuple[Problem, Candidate]]:
    """One correct completion of each solved prompt: the first, the shortest, or the closest to the rollback policy."""
    solved = [(r.problem, found[r.problem.id]) for r in chunk if found[r.problem.id]]
    if keep == "first":
        return [(problem, candidates[0]) for problem, candidates in solved]
    if keep == "shortest":
        return [(p, min(candidates, key=lambda c: (len(c.generated.token_ids), c.sample))) for p, candidates in solved]
    pairs = [(problem, candidate) for problem, candidates in solved for candidate in candidates]
    logps = rollback().score([p for p, _ in pairs], [c.generated.token_ids for _, c in pairs]) if pairs else []
    best: dict[str, tuple[float, Problem, Candidate]] = {}
    for (problem, candidate), row in zip(pairs, logps, strict=True):
        if problem.id not in best or row.mean() > best[problem.id][0]:
            best[problem.id] = (float(row.mean()), problem, candidate)
    return [(problem, candidate) for _, problem, candidate in best.values()]


def record(
    engine: Engine, guide: GuideSource, kept: Sequence[tuple[Problem, Candidate]], drawn: dict[str, int], seed: int
) -> list[Trajectory]:
    """Trajectories with the guide's own log-probabilities, found in one forward pass over what is kept."""
    logps = engine.score([p for p, _ in kept], [c.generated.token_ids for _, c in kept]) if kept else []
    return [
        Trajectory(
            prompt_id=problem.id,
            token_ids=np.array(candidate.generated.token_ids, np.int32),
            logprobs=row,
            rewards=np.array(candidate.rewards, np.float32),
            outcome="correct",
            guide=guide.id,
            guide_step=guide.step,
            sample=candidate.sample,
            samples=drawn[problem.id],
            seed=seed,
        ).validate()
        for (problem, candidate), row in zip(kept, logps, strict=True)
    ]
