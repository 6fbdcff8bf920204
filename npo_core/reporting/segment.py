"""One segment by itself, for the artifact of the stage that trained it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.metrics import Metrics, read_metrics
from npo_core.reporting.plots import RUN, draw, fill_dead, fill_signal, finish, half_window, line, name_rates
from npo_core.reporting.tables import number
from npo_core.timeline import Segment, Store, Stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = {
    "pass_rate": "pass rate, on-policy",
    "reward": "reward, after injection",
    "entropy": "entropy, nats a token",
    "groups_all_wrong": "groups all wrong",
    "groups_all_right": "groups all right",
    "groups_injected": "groups injected",
    "groups_rescued": "groups rescued",
    "guide_kl": "KL(guide || policy), nats a token",
    "grad_norm": "gradient norm",
    "completion_length": "completion length, tokens",
    "cut_off": "share of completions cut off",
}


def segment_metrics(store: Store, segment: Segment) -> Metrics:
    """The metrics of a finished segment. Raises DamagedError where a table cannot be read."""
    return read_metrics(store, [Stretch(segment, segment.t0, segment.t1)])


def segment_rows(metrics: Metrics) -> dict[str, str]:
    """For each figure: mean over the segment, and over its first and last fifth; what it has none of is left out."""
    steps = metrics["step"]
    fifth = max(1, len(steps) // 5)
    first, last = metrics.until(steps[fifth - 1]), metrics.between(steps[-fifth] - 1, steps[-1])
    means = {
        words: [number(part.mean(name), 3) for part in (metrics, first, last)]
        for name, words in ROWS.items()
        if metrics.mean(name) is not None
    }
    return {words: f"{whole}, {begin} → {end}" for words, (whole, begin, end) in means.items()}


def segment_png(metrics: Metrics) -> bytes:
    """Pass rate, entropy, dead groups and injection (or gradient norm) over the segment's updates."""
    return draw("AB;CD", (10, 6.4), lambda axes: fill(axes, metrics, half_window(len(metrics))))


def fill(axes: Sequence["Axes"], metrics: Metrics, half: int) -> None:
    rate, entropy, dead, signal = axes
    line(rate, metrics, "pass_rate", RUN, "pass rate", half)
    line(entropy, metrics, "entropy", RUN, "entropy", half)
    name_rates(rate, entropy)
    fill_dead(dead, [metrics], half)
    fill_signal(signal, [metrics], half)
    finish(axes, left=metrics["step"][0] - 1)
