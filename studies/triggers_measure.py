"""What a warning would have done on many curves at once: looks that warn, false ones, plateaus found and missed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from npo_core.config import Trigger
from studies.triggers_curves import AHEAD, EVERY, LOOKS, Curves

COOLDOWN = 40
WINDOWS, EMAS = (20, 30, 40, 60, 80), (0.8, 0.9, 0.95, 0.97)
GAINS, DROPS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04), (0.0, 0.05, 0.1, 0.2)
ALWAYS_STAGNATES, ALWAYS_FALLS = np.inf, -np.inf  # thresholds that take a condition out
Changes = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """One way to warn. `ema` None: slopes of straight lines through the raw values instead of averages."""

    ema: float | None
    window: int
    min_gain: float
    min_entropy_drop: float

    @property
    def trigger(self) -> Trigger:
        return Trigger(**{name: value for name, value in vars(self).items() if value is not None})


def default() -> Setting:
    trigger = Trigger()
    return Setting(trigger.ema, trigger.window, trigger.min_gain, trigger.min_entropy_drop)


def settings(
    gains: tuple[float, ...] = GAINS, drops: tuple[float, ...] = DROPS, slope: bool = False
) -> Iterator[Setting]:
    return (Setting(*values) for values in product([None] if slope else EMAS, WINDOWS, gains, drops))


def averages(values: np.ndarray, ema: float) -> np.ndarray:
    """`npo_core.control.signals` for all curves at once: exponential averages, corrected for their start."""
    found, total, weight = np.empty_like(values), np.zeros(len(values)), 0.0
    for i in range(values.shape[1]):
        total, weight = ema * total + (1 - ema) * values[:, i], ema * weight + 1 - ema
        found[:, i] = total / weight
    return found


def averaged_changes(curves: Curves, ema: float, window: int) -> Changes:
    """Gain of the pass rate and share of the entropy lost, at each look as the signals see it; NaN: window not full."""
    rate, entropy = (averages(values, ema) for values in (curves.pass_rate, curves.entropy))
    now, before = LOOKS - 1, LOOKS - 1 - window
    gain, drop = rate[:, now] - rate[:, before], 1 - entropy[:, now] / entropy[:, before]
    full = before >= 0
    return np.where(full, gain, np.nan), np.where(full, drop, np.nan)


def fitted_changes(curves: Curves, window: int) -> Changes:
    """The same from straight lines through the raw values of the window."""
    weights = np.arange(window) - (window - 1) / 2
    weights = weights / (weights @ weights) * window
    gain, drop = (np.full((len(curves.name), len(LOOKS)), np.nan) for _ in range(2))
    for i, look in enumerate(LOOKS):
        if look >= window:
            entropy = curves.entropy[:, look - window : look]
            change = entropy @ weights
            gain[:, i] = curves.pass_rate[:, look - window : look] @ weights
            drop[:, i] = -change / (entropy.mean(1) - change / 2)
    return gain, drop


def changes(curves: Curves, setting: Setting) -> Changes:
    if setting.ema is None:
        return fitted_changes(curves, setting.window)
    return averaged_changes(curves, setting.ema, setting.window)


def warned(curves: Curves, setting: Setting, seen: Changes) -> tuple[np.ndarray, np.ndarray]:
    """Looks that warn, and looks that were made at all: none within the cooldown after a warning."""
    gain, drop = seen
    ready = (LOOKS >= Trigger().warm_up) & ~np.isnan(gain)
    alarm = ready & ~(gain >= setting.min_gain) & ~(drop <= setting.min_entropy_drop)
    quiet_until = np.zeros(len(curves.name))
    made = np.zeros_like(alarm)
    for i, look in enumerate(LOOKS):
        made[:, i] = look > quiet_until
        quiet_until = np.where(alarm[:, i] & made[:, i], look + COOLDOWN, quiet_until)
    return alarm & made, made


def plateaus(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curve, first and last look of every plateau: looks from which the next 60 updates bring nothing, and those 60.

    Where the curve ends before those 60, nobody could have seen the plateau, and it is none.
    """
    flat = np.pad((truth == -1).astype(int), ((0, 0), (1, 1)))
    curve, first = np.nonzero(np.diff(flat, axis=1) == 1)
    after = np.nonzero(np.diff(flat, axis=1) == -1)[1]
    last = np.minimum(after - 1 + AHEAD // EVERY, len(LOOKS) - 1)
    long = (last - first) * EVERY >= AHEAD
    return curve[long], first[long], last[long]


@dataclass(frozen=True)
class Score:
    """Shares, and what they are shares of.

    false_looks   of the looks on improving stretches, those that warn
    false_rising  the same without the looks on a plateau that ends by itself within the next 60 updates
    false_runs    of the curves with an improving stretch, those with at least one false warning
    missed        of the plateaus of at least 60 updates, those without a warning
    delay         updates from a found plateau's first look to its warning, mean
    """

    false_looks: float
    false_rising: float
    false_runs: float
    missed: float
    delay: float
    looks: int
    runs: int
    plateaus: int


def share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def score(curves: Curves, setting: Setting, seen: Changes | None = None) -> Score:
    warns, made = warned(curves, setting, changes(curves, setting) if seen is None else seen)
    improving = curves.truth == 1
    curve, first, last = plateaus(curves.truth)
    looks = np.arange(len(LOOKS))
    ending = np.zeros_like(improving)
    np.logical_or.at(ending, curve, (looks >= first[:, None]) & (looks <= last[:, None]))
    rising = improving & ~ending
    following = np.where(warns, looks, len(LOOKS))  # the next look that warns, this one included
    following = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
    found = following[curve, first] <= last
    waits = (following[curve, first] - first)[found] * EVERY
    return Score(
        false_looks=share((warns & improving).sum(), (made & improving).sum()),
        false_rising=share((warns & rising).sum(), (made & rising).sum()),
        false_runs=share((warns & improving).any(1).sum(), improving.any(1).sum()),
        missed=share((~found).sum(), len(found)),
        delay=waits.mean() if len(waits) else np.nan,
        looks=int((made & improving).sum()),
        runs=int(improving.any(1).sum()),
        plateaus=len(found),
    )


SCHEMES = {
    "averages, both conditions": list(settings()),
    "averages, pass rate alone": list(settings(drops=(ALWAYS_FALLS,))),
    "averages, entropy alone": list(settings(gains=(ALWAYS_STAGNATES,))),
    "straight lines, both conditions": list(settings(slope=True)),
    "straight lines, pass rate alone": list(settings(slope=True, drops=(ALWAYS_FALLS,))),
}


@dataclass(frozen=True)
class Row:
    """A setting and what came of it on the made and on the real curves of one half."""

    setting: Setting
    made: Score
    real: Score

    @property
    def loss(self) -> float:
        """A missed plateau weighs as much as a look on an improving stretch that warns; made as much as real curves."""
        return sum(half.missed + half.false_looks for half in (self.made, self.real)) / 2


def measure(tried: Iterable[Setting], made_curves: Curves, real_curves: Curves) -> list[Row]:
    """All settings on the same curves; what does not depend on the thresholds is computed once."""
    seen: dict[tuple, tuple[Changes, Changes]] = {}
    rows = []
    for setting in tried:
        key = setting.ema, setting.window
        if key not in seen:
            seen[key] = changes(made_curves, setting), changes(real_curves, setting)
        rows.append(Row(setting, score(made_curves, setting, seen[key][0]), score(real_curves, setting, seen[key][1])))
    return rows
