"""Offline generation of guidance: guides sample, the verifier filters, one trajectory a prompt is kept.

With several guides (a ladder) each prompt takes the nearest later snapshot that solves it: guides are asked in rising
order, each only about the prompts that it is later than and that no nearer guide has solved.
Prompts are asked in chunks, each from its first sample to what is kept of it, here or in other processes; of several in
one process the answers of one are verified while another generates. Finished chunks are committed as shards, so that a
killed stage goes on with what it had.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from npo_core.engines import Engine, Generated
from npo_core.engines.rounds import Answered
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


def here(call: Callable[..., Result], *arguments: Any) -> Result:
    """What a call gives in this process."""
    return call(*arguments)


def generate_guidance(
    requests: Sequence[Request],
    guides: Sequence[GuideSource],
    sampling: Sampling,
    judging: "Judging",
    shards: Store,
    *,
    rollback: Callable[[], Engine],
    seed_of: Callable[..., int],
    progress: Callable[[int, int], None] = lambda done, total: None,
    lanes: int = 2,
    ask: Callable[..., Any] = here,
) -> None:
    """Ask the guides and commit what they solve as shards; merged afterwards by `merge_shards`.

    Args:
        requests: in the order of the segment. guides: rising by step.
        rollback: engine of the policy that will be trained, for keep = closest; the same at every call.
        seed_of: derives a seed from parts. progress: told (chunks done, chunks in all) after each chunk.
        lanes: how many chunks are under way at once. Which there are, and what is in them, does not depend on it.
        ask: calls a function with its arguments, here or in a process that generates.
    """
    solved: set[str] = set()
    committed = set(done_shards(shards))
    first = 0  # shard of a guide's first chunk
    for rung, guide in enumerate(guides):
        asked = [r for r in requests if r.update <= guide.step and r.problem.id not in solved]
        chunks = list(split(asked, sampling.chunk_prompts))
        left = [(number, chunk) for number, chunk in enumerate(chunks) if first + number not in committed]
        finished: Iterator[Sampled] = iter(())
        if left:
            policy = rollback() if sampling.keep == "closest" else None
            sampler = GuideSampler(guide.load(), guide.id, guide.step, sampling, judging, policy, seed_of)
            finished = side_by_side(partial(ask, sampler.sample), left, lanes)
            del sampler  # its model is freed before the next guide's is loaded
        for done, (number, trajectories, costs) in enumerate(finished, len(chunks) - len(left) + 1):
            write_shard(shards, first + number, trajectories, costs)
            progress(1000 * rung + 1000 * done // len(chunks), 1000 * len(guides))
        for number in range(len(chunks)):
            solved.update(read_shard_ids(shards, first + number))
        first += len(chunks)


def split(rows: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    """Pieces of at most `size` rows, in order."""
    return (rows[i : i + size] for i in range(0, len(rows), size))


def side_by_side(call: Callable[..., Result], asked: Iterable[tuple], lanes: int) -> Iterator[Result]:
    """What a call gives for each tuple of arguments, in the order in which they end; so many are under way.

    Where one fails no further ones begin, and its error is raised once those under way have been given.
    """
    coming, failure = iter(asked), None
    with ThreadPoolExecutor(lanes) as pool:
        # As many again wait in line: none of the threads waits for whoever takes what the others gave.
        futures = {pool.submit(call, *arguments) for arguments in islice(coming, 2 * lanes)}
        try:
            while futures:
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    if future.cancelled():
                        continue
                    if error := future.exception():
                        failure, coming = failure or error, iter(())
                        cancel(futures)
                        continue
                    futures |= {pool.submit(call, *arguments) for arguments in islice(coming, 1)}
                    yield future.result()
        finally:
            cancel(futures)
    if failure is not None:
        raise failure


def cancel(futures: Iterable[Future]) -> None:
    """Leave undone what has not begun."""
    for future in futures:
        future.cancel()


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
    waiting: list[tuple[list["Drawn"], Future[list["Judged"]]]] = field(default_factory=list)  # for their verdicts
    refused: Counter[str] = field(default_factory=Counter)
    guessed: Counter[str] = field(default_factory=Counter)

    def count(self) -> None:
        """Wait for the verdicts that are not there, and count them."""
        for drawn, judged in self.waiting:
            for (problem, sample, completion), (rewards, guessed, refused) in zip(drawn, judged.result(), strict=True):
                self.guessed[problem.id] += guessed
                self.refused[problem.id] += refused
                if rewards is not None:
                    self.found[problem.id].append(Candidate(sample, completion, rewards))
        self.waiting.clear()

    def costs(self) -> list[PromptCost]:
        """What each prompt cost, in samples and tokens."""
        return [
            PromptCost(id_, self.drawn[id_], self.tokens[id_], self.refused[id_], self.guessed[id_])
            for id_ in self.found
        ]


class Drawn(NamedTuple):
    """A sample of a prompt."""

    problem: Problem
    sample: int
    completion: Generated


class Judged(NamedTuple):
    """What becomes of a completion: its rewards where it may guide, and why it may not although it is right."""

    rewards: list[float] | None
    guessed: bool = False
    refused: bool = False


class Judging:
    """Says which completions may guide: the problems' judge and, of what it finds right, a second opinion if any.

    Asked by one chunk at a time, in a thread of its own: the kernel ends a judge's workers with the thread that started
    them, and those of chunks come and go.
    """

    def __init__(self, problems: ProblemSet, accept_fallback: bool = False, opinion: Judge | None = None):
        self.problems, self.accept_fallback, self.opinion = problems, accept_fallback, opinion
        self.thread = ThreadPoolExecutor(1)

    def begin(self, rows: Sequence[Completion]) -> Future[list[Judged]]:
        """Of each completion, in order, once it is judged. Its result raises what the judges do."""
        return self.thread.submit(self.judged, rows)

    def judged(self, rows: Sequence[Completion]) -> list[Judged]:
        """Of each completion, in order; all are judged at once."""
        verdicts = self.problems.judge(rows)
        first = [i for i, verdict in enumerate(verdicts) if self.may_guide(verdict)]
        seconds = [verdicts[i] for i in first] if self.opinion is None else self.opinion([rows[i] for i in first])
        found = [Judged(None, guessed=verdict.may_guide(True) and not self.may_guide(verdict)) for verdict in verdicts]
        for i, second in zip(first, seconds, strict=True):
            may = self.may_guide(second)
            found[i] = Judged(self.problems.rewards(verdicts[i])) if may else Judged(None, refused=True)
        return found

    def may_guide(self, verdict: Verdict) -> bool:
        """Whether a completion with this verdict may become guidance."""
        return verdict.may_guide(self.accept_fallback)


Sampled = tuple[int, list[Trajectory], list[PromptCost]]  # a chunk's number, what is kept of it, and what it cost


@dataclass(frozen=True)
class GuideSampler:
    """A guide (its snapshot and step) and all that it takes to sample chunks of prompts from it.

    Sent to a process that generates, it samples there with the engines and judges of that process.
    """

    engine: Any  # a GuideEngine, or what is sent in its place
    guide: str
    step: int
    sampling: Sampling
    judging: Judging
    rollback: Engine | None
    seed_of: Callable[..., int]

    def sample(self, number: int, chunk: Sequence[Request]) -> Sampled:
        """Sample a chunk in rounds; where sampling stops at the first correct one, solved prompts have no further."""
        sampling = self.sampling
        ids = [r.problem.id for r in chunk]
        seed = self.seed_of("guidance", sampling.seed, self.step, number)
        samples = ChunkSamples(chunk, seed, {id_: [] for id_ in ids}, dict.fromkeys(ids, 0), dict.fromkeys(ids, 0))
        self.engine.generate_rounds(
            [r.problem for r in chunk],
            samples=sampling.samples_per_round,
            most=sampling.samples,
            max_tokens=sampling.max_tokens,
            seed=seed,
            told=partial(self.take, samples),
        )
        samples.count()
        kept = keep_some(samples, sampling.keep, sampling.keep_most, self.rollback)
        return number, self.record(kept, samples), samples.costs()

    def take(self, samples: ChunkSamples, answered: Answered) -> Callable[[], list[Problem]]:
        """Have prompts' rounds judged; what it gives says, when called, which of the prompts are asked again."""
        drawn: list[Drawn] = []
        for problem, row in answered:
            drawn += [Drawn(problem, i, completion) for i, completion in enumerate(row, samples.drawn[problem.id])]
            samples.drawn[problem.id] += len(row)
            samples.tokens[problem.id] += sum(len(completion.token_ids) for completion in row)
        rows = [Completion(problem, c.text, len(c.token_ids), c.finished) for problem, _, c in drawn]
        samples.waiting.append((drawn, self.judging.begin(rows)))
        left = [problem for problem, _ in answered if samples.drawn[problem.id] < self.sampling.samples]

        def again() -> list[Problem]:
            if left and self.sampling.stop_at_first_correct:
                samples.count()
                return [problem for problem in left if not samples.found[problem.id]]
            return left  # no verdict is waited for that decides nothing

        return again

    def record(self, kept: Sequence[tuple[Problem, Candidate]], samples: ChunkSamples) -> list[Trajectory]:
        """Trajectories with the guide's own log-probabilities, found in one forward pass over what is kept."""
        tokens = [candidate.generated.token_ids for _, candidate in kept]
        logps = self.engine.score([problem for problem, _ in kept], tokens) if kept else []
        return [
            Trajectory(
                prompt_id=problem.id,
                token_ids=np.array(candidate.generated.token_ids, np.int32),
                logprobs=row,
                rewards=np.array(candidate.rewards, np.float32),
                outcome="correct",
                guide=self.guide,
                guide_step=self.step,
                sample=candidate.sample,
                samples=samples.drawn[problem.id],
                seed=samples.seed,
            ).validate()
            for (problem, candidate), row in zip(kept, logps, strict=True)
        ]


def keep_some(samples: ChunkSamples, keep: str, most: int, rollback: Engine | None) -> list[tuple[Problem, Candidate]]:
    """Correct completions of each solved prompt: the first, the shortest, or the closest to the rollback policy."""
    solved = [(r.problem, samples.found[r.problem.id]) for r in samples.chunk if samples.found[r.problem.id]]
    pairs = [(problem, candidate) for problem, candidates in solved for candidate in candidates]
    if rollback is not None and pairs:
        logps = rollback.score([p for p, _ in pairs], [c.generated.token_ids for _, c in pairs])
        cost = {id(candidate): -float(row.mean()) for (_, candidate), row in zip(pairs, logps, strict=True)}
    elif keep == "shortest":
        cost = {id(candidate): len(candidate.generated.token_ids) for _, candidate in pairs}
    else:
        cost = {id(candidate): 0 for _, candidate in pairs}
    ranked = [(p, sorted(candidates, key=lambda c: (cost[id(c)], c.sample))[:most]) for p, candidates in solved]
    return [(problem, candidate) for problem, candidates in ranked for candidate in candidates]
