"""The probe: one rollout of the current policy on its past mistakes, and how far each candidate snapshot is from it.

Every estimate that a decision needs comes from these completions: the pass rate on the failures since a snapshot (Q),
and the KL from the current policy to that snapshot on the current policy's own tokens. Nothing else is generated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from npo_core.control.pool import Mistake
from npo_core.engines import Engine, Generated
from npo_core.engines.check import k3
from npo_core.problems import Completion, Judge, Problem
from npo_core.timeline.records import Record


class Candidate(Record):
    """What the probe found of one snapshot to roll back to."""

    step: int
    snapshot: str
    delta: int = Field(description="optimizer updates from the snapshot to the current policy")
    prompts: int = Field(description="probed prompts that failed after the snapshot")
    q: float | None = Field(description="pass rate of the current policy on them, Q; null where there are none")
    kl: float | None = Field(description="KL(current || snapshot), k1, nats a token, on the same completions")
    kl_k3: float | None = Field(description="the same KL by k3, which is never negative")
    length: float | None = Field(description="mean tokens of these completions")


class ProbeResult(Record):
    """The estimates of one probe."""

    pool: int = Field(description="failures in reach: after the earliest candidate")
    prompts: int = Field(description="failures probed")
    samples: int = Field(description="completions a prompt")
    q: float | None = Field(description="pass rate of the current policy on all probed failures")
    tokens: int = Field(description="generated tokens")
    candidates: list[Candidate]


@dataclass(frozen=True)
class Rollout:
    """The completions of one failed prompt, and which of them are right now; None where nobody could tell."""

    mistake: Mistake
    problem: Problem
    completions: list[Generated]
    correct: list[bool | None]


def choose_mistakes(pool: Sequence[Mistake], most: int) -> list[Mistake]:
    """At most `most` failures, evenly spread over the pool's order, so that every age has its share."""
    if len(pool) <= most:
        return list(pool)
    return [pool[i] for i in np.linspace(0, len(pool) - 1, most).round().astype(int)]


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
    step: int,
    current: Engine,
    candidates: Mapping[int, tuple[str, Callable[[], Engine]]],
    pool: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeResult:
    """Q and KL for every candidate.

    Args:
        step: updates of the current policy. current: its engine, for its own log-probabilities.
        candidates: step -> (snapshot id, loader of its engine). pool: failures in reach.
    """
    own = score(current, rollouts)
    found = []
    for number, (at, (snapshot, load)) in enumerate(sorted(candidates.items()), 1):
        later = [i for i, rollout in enumerate(rollouts) if rollout.mistake.step > at]
        found.append(candidate(rollouts, later, own, at, step - at, snapshot, load))
        progress(number, len(candidates))
    return ProbeResult(
        pool=pool,
        prompts=len(rollouts),
        samples=len(rollouts[0].correct) if rollouts else 0,
        q=pass_rate(rollouts),
        tokens=sum(len(c.token_ids) for r in rollouts for c in r.completions),
        candidates=found,
    )


def candidate(
    rollouts: Sequence[Rollout],
    later: Sequence[int],
    own: Sequence[np.ndarray],
    at: int,
    delta: int,
    snapshot: str,
    load: Callable[[], Engine],
) -> Candidate:
    """The estimates for one snapshot, from the rollouts of the prompts that failed after it."""
    if not later:
        return Candidate(step=at, snapshot=snapshot, delta=delta, prompts=0, q=None, kl=None, kl_k3=None, length=None)
    chosen = [rollouts[i] for i in later]
    theirs, mine = score(load(), chosen), [own[i] for i in later]
    log_r = np.concatenate(theirs) - np.concatenate(mine)
    length = float(np.mean([len(c.token_ids) for r in chosen for c in r.completions]))
    return Candidate(
        step=at,
        snapshot=snapshot,
        delta=delta,
        prompts=len(later),
        q=pass_rate(chosen),
        kl=float(-log_r.mean(dtype=np.float64)),
        kl_k3=k3(log_r),
        length=length,
    )


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
