"""One interval of 95 % for all that reports estimate: Wilson's for shares, Newcombe's for their differences.

A pass rate is a mean over problems, each with several samples. Its standard error over problems says how many
independent answers it is worth, p (1 - p) / error^2; where all problems are alike they are worth their number. Wilson's
interval (1927) for a share of so many stays inside 0 and 1, and is no point where none or all are right; the limits of
two shares give those of their difference (Newcombe 1998, method 10).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

Z = 1.959964  # standard errors on either side of 95 % of a normal distribution
LABEL = "In brackets: 95 % intervals over the held-out problems"


class Interval(NamedTuple):
    low: float
    high: float


def wilson(rate: float, error: float, problems: int = 0, samples: int = 1) -> Interval:
    """The interval of a share.

    Args:
        rate, error: mean over problems and its standard error.
        problems, samples: how many problems, and samples of each; 0: nobody kept it, and a rate without a spread then
            is its own interval.
    """
    worth = rate * (1 - rate) / error**2 if error > 0 else math.inf
    most = problems if rate in (0.0, 1.0) else problems * samples  # all alike may be so by problem, not by sample
    number = min(worth, most) if problems else worth
    if math.isinf(number):
        return Interval(rate, rate)
    centre = (rate + Z**2 / (2 * number)) / (1 + Z**2 / number)
    half = Z * math.sqrt(rate * (1 - rate) / number + Z**2 / (4 * number**2)) / (1 + Z**2 / number)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def of_score(score: Mapping[str, Any]) -> Interval:
    """The interval of an evaluation's pass rate."""
    return wilson(score["pass_rate"], score["standard_error"], score.get("problems", 0), score.get("samples", 1))


def difference(a: float, of_a: Interval, b: float, of_b: Interval) -> Interval:
    """The interval of a - b, of two independent shares."""
    return Interval(
        a - b - math.hypot(a - of_a.low, of_b.high - b),
        a - b + math.hypot(of_a.high - a, b - of_b.low),
    )


def shown(value: float, interval: Interval, sign: str = "", mark: str = "") -> str:
    """`0.731 (0.702 to 0.758)`; `mark` goes before it, as ≈ where it is interpolated."""
    return f"{mark}{value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
