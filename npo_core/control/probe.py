"""The probe: one rollout of the current policy on its past mistakes, and how far each candidate snapshot is from it.

Q is the pass rate of a guide on what the policy that it would guide fails, and the KL is from the one to the other. Of
a rollback both come from the completions of the current policy: the failures are those recorded after the snapshot.
Where the run stays, the current policy meets its failures again, and a guide helps with those that it misses in the
probe, too: more samples of it, with the chance of Good and Turing, or a snapshot behind, which is rolled out on them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from npo_core.control.pool import Mistake
from npo_core.engines import Engine, Generated
from npo_core.engines.check import k3
from npo_core.problems import Completion, Judge, Problem
from npo_core.timeline.records import Record, SnapshotRef

T = TypeVar("T")


class Candidate(Record):
    """What the probe found of one way to intervene.

    delta > 0: roll back so many updates to `snapshot`, and the current policy guides. delta = 0: the current policy is
    asked once more, where it is. delta < 0: `snapshot`, so many updates behind, guides where the run is.
    """

    step: int
    snapshot: str
    delta: int = Field(description="updates that the guide is ahead of the policy that is guided")
    prompts: int = Field(
        description="probed failures that count: those after the snapshot; where delta <= 0, all of them"
    )
    q: float | None = Field(
        description="pass rate of the guide on them, Q; where delta <= 0, of the current policy, and of the guide on "
        "what it misses; null where there are none"
    )
    solved: float | None = Field(None, description="share of them with a right completion among those of the probe")
    kl: float | None = Field(
        description="KL(guide || guided), k1, nats a token, on the same completions; where delta <= 0, times the "
        "guide's share of Q"
    )
    kl_k3: float | None = Field(description="the same KL by k3, which is never negative")
    length: float | None = Field(description="mean tokens of these completions")


class ProbeResult(Record):
    """The estimates of one probe."""

    pool: int = Field(description="failures in reach: after the earliest candidate")
    prompts: int = Field(description="failures probed")
    samples: int = Field(description="completions a prompt")
    q: float | None = Field(description="pass rate of the current policy on all probed failures")
    tokens: int = Field(description="generated tokens")
    solved: float | None = Field(None, description="share of them with a right completion")
    candidates: list[Candidate] = Field(description="snapshots to roll back to")
    now: Candidate | None = Field(None, description="the current policy asked once more, without a rollback")
    behind: list[Candidate] = Field([], description="snapshots that might guide without a rollback")


@dataclass(frozen=True)
class Rollout:
    """The completions of one failed prompt, and which of them are right now; None where nobody could tell."""

    mistake: Mistake
    problem: Problem
    completions: list[Generated]
    correct: list[bool | None]


def choose_mistakes(pool: Sequence[Mistake], most: int) -> list[Mistake]:
    """At most `most` failures, evenly spread over the pool's order, so that every age has its share."""
    return spread(pool, most)


def roll_out(
    engine: Engine,
    mistakes: Sequence[Mistake],
    problems: Mapping[str, Problem],
    judge: Judge,
    *,
    samples: int,
    max_tokens: int,
    seed: int,
) -> list[Rollout]:
    """Ask the current policy about its failures once more."""
    asked = [problems[mistake.prompt_id] for mistake in mistakes]
    answers = engine.generate(asked, samples=samples, max_tokens=max_tokens, seed=seed)
    rows = [(problem, c) for problem, given in zip(asked, answers, strict=True) for c in given]
    verdicts = judge([Completion(p, c.text, len(c.token_ids), c.finished) for p, c in rows])
    correct = [verdict.correct for verdict in verdicts]
    return [
        Rollout(mistake, problem, given, correct[i * samples : (i + 1) * samples])
        for i, (mistake, problem, given) in enumerate(zip(mistakes, asked, answers, strict=True))
    ]


def estimate(
    rollouts: Sequence[Rollout],
    own: Sequence[np.ndarray],
    at: SnapshotRef,
    candidates: Mapping[int, tuple[str, Callable[[], Engine]]],
    pool: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeResult:
    """Q and KL for every candidate.

    Args:
        own: the current policy's log-probabilities of its rollouts. at: its snapshot.
        candidates: step -> (snapshot id, loader of its engine), loaded in turn. pool: failures in reach.
    """
    found = []
    for number, (step, (snapshot, load)) in enumerate(sorted(candidates.items()), 1):
        later = [i for i, rollout in enumerate(rollouts) if rollout.mistake.step > step]
        chosen, guided = [rollouts[i] for i in later], load if later else None
        place = {"step": step, "snapshot": snapshot, "delta": at.step - step}
        found.append(Candidate(**place, **measured(chosen, [own[i] for i in later], guided)))
        progress(number, len(candidates))
    return ProbeResult(
        pool=pool,
        prompts=len(rollouts),
        samples=len(rollouts[0].correct) if rollouts else 0,
        q=pass_rate(rollouts),
        solved=share_solved(rollouts),
        tokens=generated(rollouts),
        candidates=found,
        now=once_more(rollouts, at),
    )


def missed(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those without a right completion."""
    return [rollout for rollout in rollouts if not any(rollout.correct)]


def once_more(rollouts: Sequence[Rollout], at: SnapshotRef) -> Candidate:
    """The current policy on its failures, and more samples of it for what it misses.

    The chance that a sample is right where all others of its prompt are wrong is singletons / (singletons + samples of
    the missed), as Good (1953, "The population frequencies of species") estimates what was never seen.
    """
    known = [[right for right in r.correct if right is not None] for r in rollouts]
    singletons = sum(sum(of) == 1 for of in known)
    tried = singletons + sum(len(of) for of in known if not any(of))
    return staying(rollouts, at, 0, {"q": singletons / max(tried, 1), "kl": 0.0, "kl_k3": 0.0})


def from_behind(
    rollouts: Sequence[Rollout],
    at: SnapshotRef,
    place: SnapshotRef,
    theirs: Sequence[Rollout],
    past: Sequence[np.ndarray],
    now: Engine,
) -> Candidate:
    """The current policy on its failures, and an earlier snapshot on what it misses.

    Args:
        rollouts: of the current policy at `at`. theirs: of the snapshot at `place`, of what `rollouts` miss.
        past: the snapshot's log-probabilities of these. now: the engine of the current policy.
    """
    return staying(rollouts, place, place.step - at.step, measured(theirs, past, lambda: now))


def staying(rollouts: Sequence[Rollout], place: SnapshotRef, delta: int, guide: dict[str, float | None]) -> Candidate:
    """A candidate that rolls nothing back.

    Args:
        guide: q, KL and the share solved of a guide on what `rollouts` miss.
    """
    share = len(missed(rollouts)) / max(len(rollouts), 1)
    own, added = pass_rate(rollouts), share * (guide["q"] or 0.0)
    q = None if own is None else own + added
    solved = guide.get("solved")
    return Candidate(
        step=place.step,
        snapshot=place.snapshot,
        delta=delta,
        prompts=len(rollouts),
        q=q,
        solved=None if solved is None else 1 - share * (1 - solved),
        **{name: (guide[name] or 0.0) * added / q if q else 0.0 for name in ("kl", "kl_k3")},
        length=mean_length(rollouts),
    )


def measured(
    rollouts: Sequence[Rollout], guide: Sequence[np.ndarray], guided: Callable[[], Engine] | None
) -> dict[str, Any]:
    """Prompts, Q, KL and length of a guide's rollouts.

    Args:
        guide: its own log-probabilities. guided: loads the engine of the policy that it would guide.
    """
    if not rollouts or guided is None:
        return {"prompts": 0} | dict.fromkeys(("q", "solved", "kl", "kl_k3", "length"))
    log_r = np.concatenate(score(guided(), rollouts)) - np.concatenate(guide)
    return {
        "prompts": len(rollouts),
        "q": pass_rate(rollouts),
        "solved": share_solved(rollouts),
        "kl": float(-log_r.mean(dtype=np.float64)),
        "kl_k3": k3(log_r),
        "length": mean_length(rollouts),
    }


def share_solved(rollouts: Sequence[Rollout]) -> float | None:
    """The share of prompts with a right completion; None without prompts."""
    return float(np.mean([any(rollout.correct) for rollout in rollouts])) if rollouts else None


def generated(rollouts: Sequence[Rollout]) -> int:
    """Tokens of all completions."""
    return sum(len(c.token_ids) for r in rollouts for c in r.completions)


def mean_length(rollouts: Sequence[Rollout]) -> float | None:
    """Mean tokens of a completion; None without any."""
    lengths = [len(c.token_ids) for r in rollouts for c in r.completions]
    return float(np.mean(lengths)) if lengths else None


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread from the first on."""
    return [values[i] for i in np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]


def pass_rate(rollouts: Sequence[Rollout]) -> float | None:
    """The share of right answers among those with a verdict; None without any."""
    known = [right for rollout in rollouts for right in rollout.correct if right is not None]
    return float(np.mean(known)) if known else None


def score(engine: Engine, rollouts: Sequence[Rollout]) -> list[np.ndarray]:
    """Log-probabilities of all tokens of each prompt's completions; what was written more than once is scored once."""
    written = [[(r.problem.id, tuple(c.token_ids)) for c in r.completions] for r in rollouts]
    once = list(dict.fromkeys(pair for pairs in written for pair in pairs))
    asked = {r.problem.id: r.problem for r in rollouts}
    scores = engine.score([asked[id_] for id_, _ in once], [tokens for _, tokens in once]) if once else []
    known = dict(zip(once, scores, strict=True))
    return [np.concatenate([known[pair] for pair in pairs]) for pairs in written]
