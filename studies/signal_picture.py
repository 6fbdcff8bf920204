"""The picture of `studies.signal`: Q, KL and S over Delta, ahead and back, means with 95 % intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.results_report import interval
from studies.signal_points import POOL, Curve, Value, deltas, select, signal, values

ROWS = {
    "guides ahead of the base": [("ahead of 0", "none right")],
    "guides ahead of update 120": [("ahead of 120", "none right")],
    "AutoNPO looks back on its pool": [("back from 120", POOL), ("back from 320", POOL)],
}
BLUE, ORANGE, PINK, GREEN = "#0072B2", "#D55E00", "#CC79A7", "#009E73"
SCALES = {1.0: BLUE, 3.0: GREEN, 6.0: ORANGE}


def draw(curves: Sequence[Curve], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(3, 3, figsize=(15, 12))
    for row, (title, views) in zip(panels, ROWS.items(), strict=True):
        fill_row(row, [(view, select(curves, view, failed)) for view, failed in views])
        row[0].set_title(title, loc="left", fontweight="bold")
    for panel in panels.flat:
        panel.set(xlabel="Delta, updates", xlim=(0, None), ylim=(0, panel.get_ylim()[1]))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def fill_row(row: Sequence[Any], views: Sequence[tuple[str, list[Curve]]]) -> None:
    """Q, KL and S of one or two views; the second is dashed."""
    q, kl, s = row
    for (name, curves), dash in zip(views, ("-", "--"), strict=False):
        ahead = name.startswith("ahead")
        tail = "" if ahead else f", {name}"
        if ahead:
            line(q, curves, lambda p: p.solved, BLUE, dash, "solved with 4 samples")
            line(kl, curves, lambda p: p.kl["exact"], BLUE, dash, "exact")
        line(q, curves, lambda p: p.rate, PINK, dash, f"pass rate{tail}")
        line(kl, curves, lambda p: p.kl["k3"], PINK, dash, f"k3{tail}")
        if not ahead:
            line(kl, curves, lambda p: p.kl["k1"], BLUE, dash, f"k1{tail}")
        for scale, colour in SCALES.items():
            word = {1.0: ", token", 6.0: ", sequence"}.get(scale, "")
            quantity = "solved" if ahead else "rate"
            line(
                s,
                curves,
                lambda p, c=scale, k=quantity: signal(p, c, k),
                colour,
                dash,
                f"kl_scale {scale:g}{word}{tail}",
            )
    q.set(ylabel="Q: of the failed prompts", ylim=(0, 1.05))
    kl.set_ylabel("KL(guide || policy), nats a token")
    s.set_ylabel("S = Q / exp(kl_scale x KL)")


def line(panel: Any, curves: Sequence[Curve], value: Value, colour: str, dash: str, label: str) -> None:
    """Mean over seeds with its interval."""
    x, found = deltas(curves), values(curves, value)
    mean, half = np.array([interval(column) for column in found.T]).T
    panel.plot(x, mean, dash, color=colour, label=label, linewidth=2)
    panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
