"""One segment by itself, for the artifact of the stage that trained it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.metrics import Metrics, read_metrics
from npo_core.reporting.plots import EXTRA, RUN, draw, line
from npo_core.timeline import Segment, Store, Stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = {"pass_rate": "pass rate, on-policy", "reward": "reward, after injection", "entropy": "entropy, nats a token",
        "groups_all_wrong": "groups all wrong", "groups_all_right": "groups all right", "groups_injected": "groups injected",
        "groups_rescued": "groups rescued", "guide_kl": "KL(guide || policy), nats a token", "grad_norm": "gradient norm",
        "completion_length": "completion length, tokens"}


def segment_metrics(store: Store, segment: Segment) -> Metrics:
    return read_metrics(store, [Stretch(segment, segment.t0, segment.t1)])


def segment_rows(metrics: Metrics) -> dict[str, str]:
    """For each figure: mean over the segment, and over its first and last fifth."""
    steps = metrics["step"]
    fifth = max(1, len(steps) // 5)
    first, last = metrics.until(steps[fifth - 1]), metrics.between(steps[-fifth] - 1, steps[-1])
    means = {words: [m.mean(name) for m in (metrics, first, last)] for name, words in ROWS.items()}
    return {words: "{:.3f}, {} → {}".format(whole, *(("-" if v is None else f"{v:.3f}") for v in ends))
            for words, (whole, *ends) in means.items() if whole is not None}


def segment_png(metrics: Metrics) -> bytes:
    """Pass rate, entropy, dead groups and injection over the segment's updates."""
    return draw(4, (10, 6.0), lambda axes: fill(axes, metrics))


def fill(axes: Sequence["Axes"], metrics: Metrics) -> None:
    rate, entropy, dead, fed = axes
    line(rate, metrics, "pass_rate", RUN, "pass rate")
    line(entropy, metrics, "entropy", RUN, "entropy")
    line(dead, metrics, "groups_all_wrong", RUN, "all wrong")
    line(dead, metrics, "groups_all_right", EXTRA, "all right")
    line(fed, metrics, "groups_injected", RUN, "injected")
    line(fed, metrics, "groups_rescued", EXTRA, "rescued: were all wrong")
    for ax, title in zip(axes, ("training pass rate, on-policy", "entropy, nats a token", "dead groups a step",
                                "groups that took guidance a step"), strict=True):
        ax.set(title=title, xlabel="step")
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend(loc="best")
