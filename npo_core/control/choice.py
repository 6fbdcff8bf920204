"""Which candidate is chosen, as a pure function of the probe, the prices, and what is left to spend.

Delta* = argmax S = Q / V, with Q the pass rate of the guide on the failures in reach and V = exp(kl_scale x KL); or, by
the rule signal_per_price, the argmax of failures solved / V / tokens. Candidates are the snapshots to roll back to;
where the settings say so, the present policy without a rollback (Delta = 0, V = 1), and snapshots behind that guide it
(Delta < 0).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from npo_core.config import AutoNPO, Choice
from npo_core.control.decision import Budget, Price, Scored
from npo_core.control.prices import Prices
from npo_core.control.probe import Candidate, ProbeResult

RULES: dict[str, Callable[[Scored], float]] = {
    "signal": lambda c: c.s or 0.0,
    "signal_per_price": lambda c: c.per_price or 0.0,
}


class Chosen(NamedTuple):
    """All candidates, the Delta that each rule chooses, the best by the rule of the settings, and why.

    best None: nothing is done.
    """

    scored: list[Scored]
    choices: dict[str, int | None]
    best: Scored | None
    reason: str


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


def choose(probe: ProbeResult, settings: AutoNPO, left: Budget, prices: Prices) -> Chosen:
    """What each rule makes of a probe, and what is done."""
    scored = [score(candidate, settings, left, prices) for candidate in candidates(probe, settings)]
    if why := obstacle(probe, settings, left, scored):
        return Chosen(scored, dict.fromkeys(RULES), None, why)
    able = [c for c in scored if c.excluded is None]
    best = {rule: best_by(of, able) for rule, of in RULES.items()}
    choices: dict[str, int | None] = {rule: c.delta for rule, c in best.items()}
    chosen = best[settings.choice.rule]
    return Chosen(scored, choices, chosen, reason(chosen, len(able), probe, settings))


def best_by(rule: Callable[[Scored], float], able: Sequence[Scored]) -> Scored:
    """The candidate with the largest value; of equal ones the nearest."""
    return max(able, key=lambda c: (rule(c), -abs(c.delta)))


def candidates(probe: ProbeResult, settings: AutoNPO) -> list[Candidate]:
    """Rollbacks; where the settings say so, the present policy and snapshots behind."""
    now = [probe.now] if settings.choice.now and probe.now is not None else []
    return [*probe.candidates, *now, *probe.behind]


def score(candidate: Candidate, settings: AutoNPO, left: Budget, prices: Prices) -> Scored:
    """A candidate with V and S, failures and price, and whether it may be chosen."""
    v = variance_cost(candidate, settings.choice)
    s = candidate.q / v if candidate.q is not None and v is not None else None
    rescued, price = prices.rescued(candidate), prices.of(candidate)
    per_price = rescued / v / price.tokens if v is not None and price.tokens else None
    values = candidate.model_dump() | {"kl": distance(candidate, settings.choice), "v": v, "s": s}
    values |= {"rescued": rescued, "price": price, "per_price": per_price}
    return Scored(**values, excluded=excluded(candidate, price, settings, left))


def excluded(candidate: Candidate, price: Price, settings: AutoNPO, left: Budget) -> str | None:
    """Why a candidate cannot be chosen, or None."""
    if candidate.delta > settings.choice.max_delta:
        return f"more than choice.max_delta = {settings.choice.max_delta} updates back"
    if candidate.prompts < settings.probe.min_prompts:
        return f"{candidate.prompts} probed failures, probe.min_prompts = {settings.probe.min_prompts}"
    if candidate.q is None:
        return "no verdict on any completion is known"
    if left.updates is not None and candidate.delta > left.updates:
        return f"the budget has {left.updates} updates left"
    if left.tokens is not None and price.tokens > left.tokens:
        return f"costs {price.tokens:.0f} tokens, and the budget has {left.tokens} left"
    return None


def obstacle(probe: ProbeResult, settings: AutoNPO, left: Budget, scored: Sequence[Scored]) -> str | None:
    """Why nothing is done, in one sentence, or None."""
    if left.interventions == 0:
        return "All interventions are used up."
    if probe.q is None:
        return "The mistake pool has no failures in reach, so there is nothing to guide."
    solved, least = max([probe.q, *(c.q or 0.0 for c in probe.behind)]), settings.probe.min_solved
    if solved < least:
        return f"The policy solves {solved:.3f} of its past failures, less than probe.min_solved = {least}."
    if all(c.excluded for c in scored):
        why = "; ".join(dict.fromkeys(c.excluded for c in scored if c.excluded)) or "there is no snapshot to go back to"
        return f"No snapshot can be rolled back to: {why}."
    return None


def reason(best: Scored, able: int, probe: ProbeResult, settings: AutoNPO) -> str:
    """Why a candidate was chosen, in one sentence."""
    signal = f"S = {best.s:.4f}"
    if settings.choice.rule == "signal_per_price" and best.price is not None:
        costs = f"{best.rescued:.0f} failures solved, {best.price.tokens:.0f} tokens"
        signal = f"signal per price = {best.per_price:.3g} ({costs})"
    return (
        f"Of {able} candidates Delta = {best.delta} has the largest {signal} "
        f"(Q {best.q:.3f}, KL {best.kl:.4f} nats a token, V {best.v:.3f}); "
        f"{probe.q:.3f} of the past failures are solved now."
    )
