"""Statistics of arms against a baseline at equal cost, paired by seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studies.methods import Point

Curves = dict[int, list["Point"]]  # by seed
COSTS = {"updates": "equal updates", "flops": "equal FLOPs", "tokens": "equal tokens", "seconds": "equal seconds"}
RESAMPLES = 9999


@dataclass(frozen=True)
class Comparison:
    """An arm minus a baseline where both have spent as much, over the seeds that both have.

    `mean`, `baseline`: mean pass rates; `difference`: estimate, low, high of the mean difference (95 %, BCa bootstrap
    over seeds); `middle`: the interquartile mean of the differences; `better`: probability that the arm with one seed
    beats the baseline with another (Mann-Whitney), ties half.
    """

    seeds: list[int]
    mean: float
    baseline: float
    difference: tuple[float, float, float]
    middle: float
    better: float


def with_cost(found: Curves, cost: str) -> Curves:
    """The seeds of an arm whose every point has a kind of cost: seconds are not recorded of every run."""
    return {seed: curve for seed, curve in found.items() if not any(isnan(getattr(point, cost)) for point in curve)}


def known_costs(arms: dict[str, Curves], baseline: str) -> dict[str, str]:
    """The kinds of cost at which some arm of a task can be compared with a baseline."""
    base = arms.get(baseline, {})
    others = [found for name, found in arms.items() if name != baseline]
    return {cost: name for cost, name in COSTS.items() if any(timed(found, base, cost) for found in others)}


def timed(arm: Curves, baseline: Curves, cost: str) -> bool:
    """Whether an arm and a baseline have a seed in common with a kind of cost."""
    return bool(with_cost(arm, cost).keys() & with_cost(baseline, cost).keys())


def at_cost(baseline: Sequence["Point"], cost: str, spent: float) -> float | None:
    """The baseline's pass rate where it has spent as much, read between its evaluations; None beyond its end."""
    for before, after in pairwise(baseline):
        low, high = getattr(before, cost), getattr(after, cost)
        if low <= spent <= high:
            share = (spent - low) / (high - low) if high > low else 0.0
            return before.pass_rate + (after.pass_rate - before.pass_rate) * share
    return None


def at_step(points: Sequence["Point"], step: int) -> "Point | None":
    """The evaluated point at an update of the final branch."""
    return next((point for point in points if point.step == step), None)


def compare(arm: Curves, baseline: Curves, cost: str, step: int) -> Comparison | None:
    """At an update of the arm's final branch; None where a baseline was not run for as long, or nothing is shared."""
    arm, baseline, pairs = with_cost(arm, cost), with_cost(baseline, cost), {}
    for seed in sorted(set(arm) & set(baseline)):
        if (point := at_step(arm[seed], step)) is None:
            continue
        theirs = at_cost(baseline[seed], cost, getattr(point, cost))
        if theirs is None:
            return None
        pairs[seed] = point.pass_rate, theirs
    if not pairs:
        return None
    ours, theirs = (list(values) for values in zip(*pairs.values(), strict=True))
    return summarize(list(pairs), ours, theirs)


def summarize(seeds: list[int], ours: list[float], theirs: list[float]) -> Comparison:
    """Of paired pass rates."""
    from scipy.stats import mannwhitneyu, trim_mean

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Comparison(
        seeds,
        sum(ours) / len(ours),
        sum(theirs) / len(theirs),
        interval(differences),
        float(trim_mean(differences, 0.25)),
        float(mannwhitneyu(ours, theirs).statistic) / (len(ours) * len(theirs)),
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95 % interval, BCa bootstrap; (mean, nan, nan) of fewer than three values."""
    import numpy as np
    from scipy.stats import bootstrap

    mean = float(np.mean(values))
    if len(values) < 3:
        return mean, float("nan"), float("nan")
    if np.ptp(values) == 0:
        return mean, mean, mean
    found = bootstrap((np.asarray(values),), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return mean, float(found.confidence_interval.low), float(found.confidence_interval.high)


def reached(points: Sequence["Point"], threshold: float) -> float | None:
    """All updates spent when the pass rate first reaches a threshold, read between evaluations; None: never."""
    for before, after in pairwise(points):
        if before.pass_rate < threshold <= after.pass_rate:
            share = (threshold - before.pass_rate) / (after.pass_rate - before.pass_rate)
            return before.updates + share * (after.updates - before.updates)
    return None
