"""Offline generation of guidance: guides sample, the verifier filters, one trajectory a prompt is kept.

With several guides (a ladder) each prompt takes the nearest later snapshot that solves it: guides are asked in rising
order, each only about the prompts that it is later than and that no nearer guide has solved.
Two chunks of prompts are under way in each process that generates: the answers of one are verified, and those kept are
scored, while the other generates. Finished chunks are committed as shards, so that a killed stage goes on with what it
had.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np

from npo_core.engines import Engine, Generated
from npo_core.guidance.shards import PromptCost, done_shards, read_shard_ids, write_shard
from npo_core.guidance.trajectory import Trajectory
from npo_core.problems import Completion, Judge, Problem, ProblemSet, Verdict
from npo_core.timeline.store import Store

Result = TypeVar("Result")


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
    accept_fallback: bool = False
    keep_most: int = 1


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
    opinion: Judge | None = None,
    lanes: int = 1,
) -> None:
    """Ask the guides and commit what they solve as shards; merged afterwards by `merge_shards`.

    Args:
        requests: in the order of the segment. guides: rising by step.
        rollback: engine of the policy that will be trained, for keep = closest.
        seed_of: derives a seed from parts. progress: told (chunks done, chunks in all) after each chunk.
        opinion: a second judge, asked of what the problems' judge finds right; only what both do is kept.
        lanes: how many generations the engines do at once. Which chunks there are, and what is in them, does not
            depend on it.
    """
    solved: set[str] = set()
    committed = set(done_shards(shards))
    first = 0  # shard of a guide's first chunk
    with ThreadPoolExecutor(lanes) as judge:
        for rung, guide in enumerate(guides):
            asked = [r for r in requests if r.update <= guide.step and r.problem.id not in solved]
            chunks = list(split(asked, sampling.chunk_prompts))
            left = [number for number in range(len(chunks)) if first + number not in committed]
            sampler = GuideSampler(cache(guide.load), guide, sampling, problems, rollback, judge, seed_of, opinion)
            if left:
                sampler.load()
            works = (sampler.sample(number, chunks[number]) for number in left)
            finished = side_by_side(works, lanes) if lanes > 1 else in_turn(works)
            for done, (number, trajectories, costs) in enumerate(finished, len(chunks) - len(left) + 1):
                write_shard(shards, first + number, trajectories, costs)
                progress(1000 * rung + 1000 * done // len(chunks), 1000 * len(guides))
            for number in range(len(chunks)):
                solved.update(read_shard_ids(shards, first + number))
            first += len(chunks)


def split(rows: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    """Pieces of at most `size` rows, in order."""
    return (rows[i : i + size] for i in range(0, len(rows), size))


def in_turn(works: Iterator[Generator[None, None, Result]], most: int = 2) -> Iterator[Result]:
    """What generators return, in the order in which they end; `most` are under way and take turns at every `yield`.

    Whose turn it is follows from what they find, never from how long it takes.
    """
    under_way: deque[Generator[None, None, Result]] = deque()
    while True:
        under_way.extend(islice(works, most - len(under_way)))
        if not under_way:
            return
        work = under_way.popleft()
        try:
            next(work)
            under_way.append(work)
        except StopIteration as end:
            yield end.value


def side_by_side(works: Iterator[Generator[None, None, Result]], lanes: int) -> Iterator[Result]:
    """What `in_turn` gives, from so many threads that share the works; what fails in one is raised once all ended."""
    found: SimpleQueue[Any] = SimpleQueue()
    lock, ended = Lock(), Event()

    def dealt() -> Iterator[Generator[None, None, Result]]:
        while not ended.is_set():
            with lock:
                work = next(works, None)
            if work is None:
                return
            yield work

    def lane() -> None:
        try:
            for result in in_turn(dealt()):
                found.put(result)
        except BaseException:
            ended.set()
            raise

    with ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(lane) for _ in range(lanes)]
        for future in futures:
            future.add_done_callback(found.put)
        left = lanes
        try:
            while left:
                if isinstance(result := found.get(), Future):
                    left -= 1
                else:
                    yield result
        finally:
            ended.set()
    for future in futures:
        future.result()


@dataclass(frozen=True, slots=True)
class ChunkSamples:
    """The samples of a chunk so far: of each prompt the correct ones, how many were drawn, tokens of all of them.

    And how many were refused by the second opinion, or left out as guesses.
    """

    chunk: Sequence[Request]
    seed: int
    found: dict[str, list[Candidate]]
    drawn: dict[str, int]
    tokens: dict[str, int]
    refused: Counter[str] = field(default_factory=Counter)
    guessed: Counter[str] = field(default_factory=Counter)

    def costs(self) -> list[PromptCost]:
        """What each prompt cost, in samples and tokens."""
        return [
            PromptCost(id_, self.drawn[id_], self.tokens[id_], self.refused[id_], self.guessed[id_])
            for id_ in self.found
        ]


@dataclass(frozen=True)
class GuideSampler:
    """A guide and all that it takes to sample chunks of prompts from it; `judge` works beside the generation."""

    engine: Callable[[], Engine]
    guide: GuideSource
    sampling: Sampling
    problems: ProblemSet
    rollback: Callable[[], Engine]
    judge: Executor
    seed_of: Callable[..., int]
    opinion: Judge | None
    judging: Any = field(default_factory=Lock)  # judges are asked by one lane at a time

    def load(self) -> None:
        """Load the models, in the thread that calls: never beside one that generates."""
        self.engine()
        if self.sampling.keep == "closest":
            self.rollback()

    def sample(
        self, number: int, chunk: Sequence[Request]
    ) -> Generator[None, None, tuple[int, list[Trajectory], list[PromptCost]]]:
        """Sample a chunk in rounds; solved prompts leave the batch when sampling stops at the first correct one.

        Yields while its answers are with the judge, when another chunk may generate.
        """
        sampling = self.sampling
        ids = [r.problem.id for r in chunk]
        seed = self.seed_of("guidance", sampling.seed, self.guide.step, number)
        samples = ChunkSamples(chunk, seed, {id_: [] for id_ in ids}, dict.fromkeys(ids, 0), dict.fromkeys(ids, 0))
        pending = [r.problem for r in chunk]
        kept: list[Trajectory] = []
        for start in range(0, sampling.samples, sampling.samples_per_round):
            width = min(sampling.samples_per_round, sampling.samples - start)
            answers = self.engine().generate(
                pending, samples=width, max_tokens=sampling.max_tokens, seed=self.seed_of(seed, start)
            )
            judged = self.judge.submit(self.take, samples, pending, answers, start)
            yield
            pending, kept = judged.result()
            if not pending:
                break
        return number, kept, samples.costs()

    def take(
        self, samples: ChunkSamples, pending: Sequence[Problem], answers: Sequence[Sequence[Generated]], start: int
    ) -> tuple[list[Problem], list[Trajectory]]:
        """Judge a round; the prompts still to be asked and, where there are none, what is kept of the chunk."""
        with self.judging:
            right = self.correct(samples, pending, answers, start)
        for problem, completions, candidates in zip(pending, answers, right, strict=True):
            samples.drawn[problem.id] += len(completions)
            samples.tokens[problem.id] += sum(len(c.token_ids) for c in completions)
            samples.found[problem.id] += candidates
        drawn = start + len(answers[0])
        if drawn < self.sampling.samples:
            stop = self.sampling.stop_at_first_correct
            if left := [p for p in pending if not (stop and samples.found[p.id])]:
                return left, []
        kept = keep_some(samples, self.sampling.keep, self.sampling.keep_most, self.rollback)
        return [], record(self.engine(), self.guide, kept, samples)

    def correct(
        self, samples: ChunkSamples, pending: Sequence[Problem], answers: Sequence[Sequence[Generated]], start: int
    ) -> list[list[Candidate]]:
        """Of each prompt, the completions that may guide; all are judged at once."""
        rows = [
            Completion(problem, c.text, len(c.token_ids), c.finished)
            for problem, completions in zip(pending, answers, strict=True)
            for c in completions
        ]
        verdicts = self.problems.judge(rows)
        for row, verdict in zip(rows, verdicts, strict=True):
            samples.guessed[row.problem.id] += verdict.may_guide(True) and not self.may_guide(verdict)
        may = iter(self.agreed(samples, rows, verdicts))
        numbered = (enumerate(zip(completions, islice(may, len(completions)), strict=True)) for completions in answers)
        return [
            [Candidate(start + i, c, self.problems.rewards(verdict)) for i, (c, verdict) in judged if verdict]
            for judged in numbered
        ]

    def may_guide(self, verdict: Verdict) -> bool:
        """Whether a completion with this verdict may become guidance."""
        return verdict.may_guide(self.sampling.accept_fallback)

    def agreed(self, samples: ChunkSamples, rows: list[Completion], verdicts: list[Verdict]) -> list[Verdict | None]:
        """The verdicts of what may guide, None for the rest; the second opinion may refuse what the first allows."""
        kept: list[Verdict | None] = [verdict if self.may_guide(verdict) else None for verdict in verdicts]
        if self.opinion is None:
            return kept
        first = [i for i, verdict in enumerate(kept) if verdict is not None]
        for i, second in zip(first, self.opinion([rows[i] for i in first]), strict=True):
            if not self.may_guide(second):
                kept[i] = None
                samples.refused[rows[i].problem.id] += 1
        return kept


def keep_some(
    samples: ChunkSamples, keep: str, most: int, rollback: Callable[[], Engine]
) -> list[tuple[Problem, Candidate]]:
    """Correct completions of each solved prompt: the first, the shortest, or the closest to the rollback policy."""
    solved = [(r.problem, samples.found[r.problem.id]) for r in samples.chunk if samples.found[r.problem.id]]
    pairs = [(problem, candidate) for problem, candidates in solved for candidate in candidates]
    if keep == "closest" and pairs:
        logps = rollback().score([p for p, _ in pairs], [c.generated.token_ids for _, c in pairs])
        cost = {id(candidate): -float(row.mean()) for (_, candidate), row in zip(pairs, logps, strict=True)}
    elif keep == "shortest":
        cost = {id(candidate): len(candidate.generated.token_ids) for _, candidate in pairs}
    else:
        cost = {id(candidate): 0 for _, candidate in pairs}
    ranked = [(p, sorted(candidates, key=lambda c: (cost[id(c)], c.sample))[:most]) for p, candidates in solved]
    return [(problem, candidate) for problem, candidates in ranked for candidate in candidates]


def record(
    engine: Engine, guide: GuideSource, kept: Sequence[tuple[Problem, Candidate]], samples: ChunkSamples
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
            samples=samples.drawn[problem.id],
            seed=samples.seed,
        ).validate()
        for (problem, candidate), row in zip(kept, logps, strict=True)
    ]
