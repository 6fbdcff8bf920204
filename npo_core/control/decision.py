"""AutoNPO's decision as a pure function of what was seen, and as a record.

Two stages: the signals warn (`signals.py`), the probe confirms. Then Delta* = argmax S = Q / V over the candidate
snapshots, with Q the pass rate on the failures since the snapshot and V = exp(kl_scale x KL).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from npo_core.config import AutoNPO, Choice
from npo_core.control.probe import Candidate, ProbeResult
from npo_core.timeline.records import Record, SnapshotRef


class Scored(Candidate):
    """A candidate with its variance cost and effective signal; `kl` is the KL that V takes, by choice.kl_estimator."""

    v: float | None = Field(description="V = exp(kl_scale x KL), the variance cost")
    s: float | None = Field(description="S = Q / V, the effective signal")
    excluded: str | None = Field(description="why it cannot be chosen; null: it can")


class Budget(Record):
    """What may still be spent, all branches counted; null: no limit."""

    updates: int | None = None
    tokens: int | None = None
    interventions: int | None = None


class Decision(Record):
    """What was seen, what was chosen, and why. Kept as `decisions/NNNN.json`; never changed."""

    number: int
    flow: Literal["auto-npo", "plateau-breakthrough"]
    branch: str
    step: int
    snapshot: str
    intervene: bool
    reason: str
    delta: int | None
    rollback: SnapshotRef | None
    signals: dict[str, Any] = Field(description="the reading that led here, and the window of updates behind it")
    thresholds: dict[str, Any]
    probe: str | None = Field(description="fingerprint of the probe stage")
    pool_q: float | None = Field(description="pass rate on all probed failures")
    candidates: list[Scored]
    left: Budget
    expected: dict[str, float] = Field(description="what the intervention costs: updates, tokens")

    @property
    def at(self) -> SnapshotRef:
        """The snapshot that was decided at, which guides."""
        return SnapshotRef(step=self.step, snapshot=self.snapshot)

    @property
    def back_to(self) -> SnapshotRef:
        """The snapshot that an intervention rolls back to. Raises ValueError where nothing is rolled back."""
        if self.rollback is None:
            raise ValueError(f"Decision {self.number} rolls nothing back.")
        return self.rollback

    def complaint(self, answer: str, delta: int | None) -> str:
        """Why an answer to this proposal cannot be carried out; empty: it can."""
        able = [c.delta for c in self.candidates if c.excluded is None]
        if answer != "other" or delta in able:
            return ""
        return f"Delta = {delta} is no candidate: choose one of {', '.join(map(str, able))}. "

    def answered(self, answer: str, delta: int | None) -> "Decision":
        """This decision after somebody accepted it, chose another Delta, or declined."""
        if answer == "decline":
            return self.model_copy(update={"intervene": False, "delta": None, "rollback": None})
        if answer == "accept":
            return self
        chosen = next(c for c in self.candidates if c.delta == delta)
        rollback = SnapshotRef(step=chosen.step, snapshot=chosen.snapshot)
        return self.model_copy(update={"delta": delta, "rollback": rollback})


def distance(candidate: Candidate, choice: Choice) -> float | None:
    """The KL that V takes, nats a token."""
    return candidate.kl if choice.kl_estimator == "k1" else candidate.kl_k3


def variance_cost(candidate: Candidate, choice: Choice) -> float | None:
    """V of a candidate: exp(kl_scale x KL), with the KL of a token or of a whole completion; null: no KL is known."""
    kl = distance(candidate, choice)
    if kl is None or candidate.length is None:
        return None
    kl *= candidate.length if choice.kl_form == "sequence" else 1.0
    return math.exp(min(choice.kl_scale * max(kl, 0.0), 700.0))  # beyond, a float overflows, and S is 0 either way


def score(candidate: Candidate, settings: AutoNPO, left: Budget) -> Scored:
    """A candidate with V and S, and whether it may be chosen."""
    v = variance_cost(candidate, settings.choice)
    s = candidate.q / v if candidate.q is not None and v is not None else None
    values = candidate.model_dump() | {"kl": distance(candidate, settings.choice)}
    return Scored(**values, v=v, s=s, excluded=excluded(candidate, settings, left))


def excluded(candidate: Candidate, settings: AutoNPO, left: Budget) -> str | None:
    """Why a candidate cannot be chosen, or None."""
    if candidate.delta > settings.choice.max_delta:
        return f"more than choice.max_delta = {settings.choice.max_delta} updates back"
    if candidate.prompts < settings.probe.min_prompts:
        return f"{candidate.prompts} probed failures, probe.min_prompts = {settings.probe.min_prompts}"
    if left.updates is not None and candidate.delta > left.updates:
        return f"the budget has {left.updates} updates left"
    return None


def best_candidate(probe: ProbeResult, settings: AutoNPO, left: Budget) -> tuple[list[Scored], Scored | None, str]:
    """All candidates with their scores, the chosen one (None: do not intervene), and the reason in one sentence."""
    scored = [score(candidate, settings, left) for candidate in probe.candidates]
    if left.interventions == 0:
        return scored, None, "All interventions are used up."
    if probe.q is None:
        return scored, None, "The mistake pool has no failures in reach, so there is nothing to guide."
    if probe.q < settings.probe.min_solved:
        share, least = f"{probe.q:.3f}", settings.probe.min_solved
        return scored, None, f"The policy solves {share} of its past failures, less than probe.min_solved = {least}."
    able = [c for c in scored if c.excluded is None]
    if not able:
        why = "; ".join(dict.fromkeys(c.excluded for c in scored if c.excluded)) or "there is no snapshot to go back to"
        return scored, None, f"No snapshot can be rolled back to: {why}."
    best = max(able, key=lambda c: (c.s, -c.delta))
    return (
        scored,
        best,
        (
            f"Of {len(able)} candidates Delta = {best.delta} has the largest S = {best.s:.4f} "
            f"(Q {best.q:.3f}, KL {best.kl:.4f} nats a token, V {best.v:.3f}); "
            f"{probe.q:.3f} of the past failures are solved now."
        ),
    )


def expected_cost(
    best: Scored | None, probe: ProbeResult | None, rows: Sequence[Mapping[str, Any]], samples: int
) -> dict[str, float]:
    """What the intervention will cost: replayed updates, the tokens they took before, guidance for the pool's slice."""
    if best is None or probe is None:
        return {"updates": 0.0, "tokens": 0.0}
    replayed = sum(row["tokens_generated"] or 0.0 for row in rows if row["step"] > best.step)
    in_slice = probe.pool * best.prompts / max(probe.prompts, 1)
    return {"updates": float(best.delta), "tokens": replayed + in_slice * samples * (best.length or 0.0)}
