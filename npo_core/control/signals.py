"""The warning signal: moving averages of pass rate and entropy, and whether they look like a plateau.

Both averages are exponential and corrected for their start, so that early values are not drawn to zero. What is watched
is the policy's own: its pass rate, since guidance lifts the mixed reward without the policy being any better, and the
entropy of its own tokens, since a guide's are those that the policy finds unlikely.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from npo_core.config import Trigger


@dataclass(frozen=True)
class Reading:
    """What the signals say after an update.

    pass_rate, entropy   their moving averages
    gain                 change of the pass rate's average over the window; None: the window is not full yet
    entropy_drop         share of itself that the entropy's average lost over the window
    stagnates, falls     what the thresholds make of them; warning: both, after the warm-up
    """

    step: int
    pass_rate: float
    entropy: float
    gain: float | None
    entropy_drop: float | None
    stagnates: bool
    falls: bool
    warning: bool

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


class Signals:
    """Folds metrics of updates, in their order, into readings. Its state is plain values and part of snapshots."""

    def __init__(self, trigger: Trigger):
        self.trigger = trigger
        self.weight = 0.0  # sum of the weights in the averages
        self.sums = (0.0, 0.0)  # weighted sums of pass rate and entropy
        self.averages: deque[tuple[float, float]] = deque(maxlen=trigger.window + 1)

    def update(self, row: Mapping[str, Any]) -> Reading | None:
        """Take in one row of `STEP_SCHEMA`; None where the update had no generation of its own."""
        if row["pass_rate"] is None or row["entropy"] is None:
            return None
        entropy = watched_entropy(row)
        past = self.trigger.ema
        self.weight = past * self.weight + 1 - past
        new = (row["pass_rate"], entropy)
        rate, nats = (past * old + (1 - past) * value for old, value in zip(self.sums, new, strict=True))
        self.sums = (rate, nats)
        self.averages.append((rate / self.weight, nats / self.weight))
        return self.reading(row["step"])

    def reading(self, step: int) -> Reading:
        """What the signals say now, after update `step`."""
        rate, entropy = self.averages[-1]
        if len(self.averages) <= self.trigger.window:
            return Reading(step, rate, entropy, None, None, False, False, False)
        rate_before, entropy_before = self.averages[0]
        gain = rate - rate_before
        drop = (entropy_before - entropy) / entropy_before if entropy_before > 0 else 0.0
        stagnates, falls = gain < self.trigger.min_gain, drop > self.trigger.min_entropy_drop
        return Reading(
            step, rate, entropy, gain, drop, stagnates, falls, stagnates and falls and step >= self.trigger.warm_up
        )

    def state(self) -> dict[str, Any]:
        """Everything that decides later readings."""
        return {"weight": self.weight, "sums": list(self.sums), "averages": [list(pair) for pair in self.averages]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.weight, self.sums = state["weight"], tuple(state["sums"])
        self.averages = deque((tuple(pair) for pair in state["averages"]), maxlen=self.trigger.window + 1)


def watched_entropy(row: Mapping[str, Any]) -> float | None:
    """The entropy of the policy's own tokens; that of all where a run of before 0.3 recorded no other, nats a token."""
    own = row.get("entropy_on_policy")
    return row["entropy"] if own is None else own


def readings(rows: Iterable[Mapping[str, Any]], trigger: Trigger) -> list[Reading]:
    """The reading after each update on a recorded path, in order; updates without generation have none."""
    signals = Signals(trigger)
    return [reading for row in rows if (reading := signals.update(row)) is not None]
