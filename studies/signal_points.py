"""What `studies.signal` measures, and Q, KL and S of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ESTIMATORS = ("exact", "k3", "k1")
POOL, PROBE = "pool", "default probe"
FAILED = {"none right": 0.0, "below the gate": 0.5}  # most of the policy's own samples that may be right


@dataclass(frozen=True)
class Point:
    """What was found at one Delta.

    rate    pass rate of the guide on the failed prompts; solved: share that one of its samples solves
    kl      KL(guide || policy), nats a token: `k3`, `k1` from the guide's samples, `exact` over the vocabulary
    """

    delta: int
    prompts: int
    rate: float
    solved: float
    length: float
    kl: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """One seed seen from one place, `ahead of t` or `back from t`: a point for every snapshot, rising by Delta."""

    view: str
    failed: str
    seed: int
    points: list[Point]


Value = Callable[[Point], float]


def signal(point: Point, scale: float, quantity: str = "solved", estimator: str | None = None) -> float:
    """S = Q / exp(scale x KL), with the exact KL where it is known."""
    kl = point.kl[estimator or ("exact" if "exact" in point.kl else "k1")]
    return getattr(point, quantity) / float(np.exp(scale * kl))


def select(curves: Sequence[Curve], view: str, failed: str) -> list[Curve]:
    return [curve for curve in curves if (curve.view, curve.failed) == (view, failed)]


def deltas(curves: Sequence[Curve]) -> list[int]:
    """Every Delta that all seeds have, rising."""
    return sorted(set.intersection(*({point.delta for point in curve.points} for curve in curves)))


def values(curves: Sequence[Curve], value: Value) -> np.ndarray:
    """[seed, Delta], over the Deltas that all seeds have."""
    shared = deltas(curves)
    return np.array([[value(point) for point in curve.points if point.delta in shared] for curve in curves])
