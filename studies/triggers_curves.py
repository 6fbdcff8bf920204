"""Curves with a known truth for `studies.triggers`: made ones of eight families, and docs/results-published.md's.

A made curve is a true pass rate and a true entropy by update; what a run would see of them is drawn on top: 32 prompts
of different difficulty, 8 completions each, and noise of the entropy as measured on real runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npo_core.reporting.run_data import RunData, load
from npo_core.stages.workspace import Workspace

UPDATES, AHEAD, EVERY = 320, 60, 20
LOOKS = np.arange(EVERY, UPDATES + 1, EVERY)  # updates at which a flow would look: the snapshots
IMPROVING, PLATEAU = 0.03, 0.015  # gain of the true pass rate over the next 60 updates: at least, less than
PROMPTS, COMPLETIONS = 32, 8
SEEDS, CURVES_A_SEED = 4, 26
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # trend, swing around it, log of the entropy


@dataclass(frozen=True)
class Curves:
    """Many curves, one a row.

    pass_rate, entropy  what the run saw at updates 1 to 320; NaN after its end
    truth               at each look: 1 improving, -1 plateau, 0 neither or unknown
    choosing            the half that thresholds are chosen on
    """

    family: np.ndarray
    name: np.ndarray
    pass_rate: np.ndarray
    entropy: np.ndarray
    truth: np.ndarray
    choosing: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Curves":
        return Curves(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def label(gain: np.ndarray) -> np.ndarray:
    """Truth from the gain over the next 60 updates; an unknown gain (NaN) is neither."""
    return (gain >= IMPROVING).astype(int) - (gain < PLATEAU).astype(int)


def uniform(rng: np.random.Generator, low: float, high: float, log: bool = False) -> np.ndarray:
    """One value a curve, as a column."""
    values = (
        rng.uniform(np.log(low), np.log(high), (CURVES_A_SEED, 1))
        if log
        else rng.uniform(low, high, (CURVES_A_SEED, 1))
    )
    return np.exp(values) if log else values


def rise(rng: np.random.Generator, t: np.ndarray, fastest: float, slowest: float) -> np.ndarray:
    """An exponential approach to a ceiling, by its time constant in updates."""
    start, end = uniform(rng, 0.1, 0.4), uniform(rng, 0.5, 0.97)
    return start + (end - start) * (1 - np.exp(-t / uniform(rng, fastest, slowest, log=True)))


def entropy_of(rng: np.random.Generator, rate: np.ndarray, drift: tuple[float, float]) -> np.ndarray:
    """Log entropy: it falls with what is learnt, and drifts by so much every 60 updates besides."""
    learnt = np.maximum.accumulate(rate, 1) - rate[:, :1]
    return np.log(0.75) - uniform(rng, 2.5, 5) * learnt + uniform(rng, *drift) * np.arange(rate.shape[1]) / 60


def saturating(rng: np.random.Generator, t: np.ndarray) -> Parts:
    trend = rise(rng, t, 10, 300)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.4, -0.05))


def pause(rng: np.random.Generator, t: np.ndarray) -> Parts:
    """The entropy may fall or rise during the pause: both were seen before a second rise."""
    begin, length = uniform(rng, 40, 100), uniform(rng, 100, 180)
    worked = np.minimum(t, begin) + np.maximum(t - begin - length, 0)
    trend = rise(rng, worked, 60, 150)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.3, 0.1))


def linear(rng: np.random.Generator, t: np.ndarray) -> Parts:
    trend = np.minimum(uniform(rng, 0.1, 0.4) + uniform(rng, 0.031, 0.1) * t / 60, 0.98)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.2, 0))


def collapse(rng: np.random.Generator, t: np.ndarray) -> Parts:
    risen, begin = rise(rng, t, 15, 50), uniform(rng, 80, 200)
    lost = uniform(rng, 0.1, 0.4) * np.clip((t - begin) / uniform(rng, 60, 150), 0, 1)
    trend = np.maximum(risen - lost, 0.02)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.4, -0.1))


def oscillation(rng: np.random.Generator, t: np.ndarray) -> Parts:
    """The truth is the trend's: no decision should follow the swing."""
    trend = np.clip(rise(rng, t, 20, 300), 0.08, 0.92)
    swing = uniform(rng, 0.02, 0.06) * np.sin(2 * np.pi * (t / uniform(rng, 40, 160) + uniform(rng, 0, 1)))
    return trend, swing, entropy_of(rng, trend + swing, (-0.4, -0.05))


def falling(rng: np.random.Generator, t: np.ndarray) -> Parts:
    trend = rise(rng, t, 8, 40)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.5, -0.1))


def flat(rng: np.random.Generator, t: np.ndarray) -> Parts:
    trend = rise(rng, t, 8, 40)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.02, 0.02))


def steps(rng: np.random.Generator, t: np.ndarray) -> Parts:
    gaps, sizes = rng.uniform(40, 140, (CURVES_A_SEED, 8)), rng.uniform(0.04, 0.15, (CURVES_A_SEED, 8))
    passed = t[..., None] >= np.cumsum(gaps, 1)[:, None, :]
    trend = np.minimum(uniform(rng, 0.1, 0.5) + (passed * sizes[:, None, :]).sum(2), 0.97)
    return trend, np.zeros_like(trend), entropy_of(rng, trend, (-0.3, 0))


FAMILIES: dict[str, Callable[[np.random.Generator, np.ndarray], Parts]] = {
    "saturating rise": saturating,
    "rise, pause, rise": pause,
    "slow linear rise": linear,
    "collapse": collapse,
    "oscillation": oscillation,
    "plateau, entropy falls": falling,
    "plateau, entropy flat": flat,
    "steps": steps,
}


def observed(rng: np.random.Generator, rate: np.ndarray, log_entropy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pass rate of a batch and its entropy. Prompts differ as much as in real runs; a harder batch has more entropy."""
    alike = uniform(rng, 0.1, 1.5, log=True)  # small: a prompt is nearly always or nearly never passed
    mean = np.clip(rate, 0.005, 0.995)[..., None]
    prompts = rng.beta(mean * alike[..., None], (1 - mean) * alike[..., None], (*rate.shape, PROMPTS))
    seen = rng.binomial(COMPLETIONS, prompts).mean(2) / COMPLETIONS
    harder = (rate - seen) / np.maximum((rate - seen).std(1, keepdims=True), 1e-9)
    noise = uniform(rng, 0.08, 0.18) * (0.4 * harder + np.sqrt(1 - 0.4**2) * rng.standard_normal(rate.shape))
    return seen, np.exp(log_entropy + noise)


def made_family(number: int, family: str, seed: int) -> Curves:
    """26 curves of a family; another seed has other curves, so that what is reported was not chosen on."""
    rng = np.random.default_rng((number, seed))
    trend, swing, log_entropy = FAMILIES[family](rng, np.arange(UPDATES + AHEAD + 1.0)[None, :])
    seen, entropy = observed(rng, (trend + swing)[:, 1 : UPDATES + 1], log_entropy[:, 1 : UPDATES + 1])
    names = np.array([f"{family}, seed {seed}, curve {i}" for i in range(CURVES_A_SEED)])
    return Curves(
        np.full(CURVES_A_SEED, family),
        names,
        seen,
        entropy,
        label(trend[:, LOOKS + AHEAD] - trend[:, LOOKS]),
        np.full(CURVES_A_SEED, seed % 2 == 1),
    )


def made() -> Curves:
    """All made curves: odd seeds to choose on, even seeds to report."""
    return joined(made_family(n, f, seed) for seed in range(SEEDS) for n, f in enumerate(FAMILIES))


def joined(parts: Iterator[Curves]) -> Curves:
    found = list(parts)
    return Curves(*(np.concatenate([getattr(p, name) for p in found]) for name in Curves.__dataclass_fields__))


def real(folder: Path) -> Curves:
    """The way of every finished run's final branch: seeds 0 and 1 to choose on, the others to report.

    Scouts are left out: without guidance they repeat the GRPO run of their seed bit for bit.
    """
    return joined(
        real_run(path.parent.name, load(Workspace(str(path.parent)))) for path in sorted(folder.glob("*/config.json"))
    )


def real_run(name: str, run: RunData) -> Curves:
    arm = "real, GRPO" if run.kind == "grpo" else "real, guided" if run.guided_until else "real, rollback alone"
    steps = {p.step: p.pass_rate for p in run.points}
    gain = np.array([steps.get(look + AHEAD, np.nan) - steps.get(look, np.nan) for look in LOOKS.tolist()])
    return Curves(
        np.array([arm]),
        np.array([name]),
        padded(run.steps["pass_rate"]),
        padded(run.steps["entropy_on_policy"]),
        label(gain)[None, :],
        np.array([run.config.seed <= 1]),
    )


def padded(column: list[float]) -> np.ndarray:
    """One row of 320 updates, NaN after the run's end."""
    return np.pad(np.array(column[:UPDATES], float), (0, max(UPDATES - len(column), 0)), constant_values=np.nan)[
        None, :
    ]
