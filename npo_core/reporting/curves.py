"""Held-out curves as a picture: by step, by all updates, by everything generated; with every intervention."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.compare import AXES
from npo_core.reporting.plots import (
    ABANDONED,
    BASELINE,
    DASHES,
    FAINT,
    GUIDED,
    INK,
    MUTED,
    RUN,
    Names,
    draw,
    entries,
    height,
    mark_rollbacks,
    short_number,
    whole_steps,
)
from npo_core.reporting.run_data import CurvePoint, Rollback, RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE = "curve"  # marks the lines that an axis must hold
ARROW = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}


def curves(run: RunData, baseline: RunData | None = None, names: Names = ("this run", "baseline")) -> bytes:
    """Held-out pass rate with its 95 % band, by step, by all updates and by all generated tokens."""
    return draw("AA;BC", (10, 8), lambda axes: fill_curves(axes, run, baseline, names), False)


def fill_curves(axes: Sequence["Axes"], run: RunData, baseline: RunData | None, names: Names) -> None:
    """Draw held-out curves over step, updates and tokens."""
    for axis, ax in zip(AXES, axes, strict=True):
        curve(ax, axis, run.points, RUN, names[0], "o")
        for old in run.abandoned:
            thin(ax, axis, old.points)
        if baseline is not None:
            curve(ax, axis, baseline.points, BASELINE, names[1], "s")
        target_line(ax, run.config.evaluation.target)
        ax.set_ylabel("held-out pass rate")
    by_step, by_updates, by_tokens = axes
    by_step.set(title="by step", xlabel="step of the way to the result")
    by_updates.set(title="by all updates", xlabel="optimizer updates, abandoned ones included")
    by_tokens.set(title="by everything generated", xlabel="generated tokens, abandoned, probes and guidance included")
    done = (max([run.steps_done, *(rollback.source for rollback in run.rollbacks)]), *run.total)
    for ax, end in zip(axes, done, strict=True):
        ax.set_xlim(0, max([end, 1, *(max(line.get_xdata()) for line in curve_lines(ax))]) * 1.03)
        whole_steps(ax)
    by_tokens.xaxis.set_major_formatter(lambda value, _: short_number(value))
    same_heights(axes)
    mark_rollbacks(by_step, run, GUIDED)
    arrows(by_step, run)
    for axis, ax in zip(("updates", "tokens"), axes[1:], strict=True):
        mark_paid(ax, run, axis)
    legend_above(axes)
    if not curve_lines(by_step):
        by_step.text(0.5, 0.5, "nothing evaluated yet", transform=by_step.transAxes, ha="center", color=MUTED)


def curve_lines(ax: "Axes") -> list:
    """The lines of an axes that are curves."""
    return [line for line in ax.lines if line.get_gid() == CURVE]


def legend_above(axes: Sequence["Axes"]) -> None:
    """One legend for all panels, beside the first one's title."""
    shown = entries(axes)
    if shown["labels"]:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1.0), "borderaxespad": 0.2}
        axes[0].legend(**shown, **place, ncols=len(shown["labels"]), columnspacing=1.4)


def same_heights(axes: Sequence["Axes"]) -> None:
    """Give all axes the same range of pass rates."""
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(max(0.0, low), min(1.0, high))


def curve(ax: "Axes", axis: str, points: Sequence[CurvePoint], colour: str, name: str, marker: str) -> None:
    """Draw one run's curve with its intervals."""
    if not points:
        return
    x, y = [getattr(point, axis) for point in points], [point.pass_rate for point in points]
    low, high = zip(*(point.interval for point in points), strict=True)
    ax.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    ax.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=2, label=name, gid=CURVE, zorder=height(colour))


def thin(ax: "Axes", axis: str, points: Sequence[CurvePoint]) -> None:
    """Draw an abandoned branch's curve."""
    x, y = [getattr(point, axis) for point in points], [point.pass_rate for point in points]
    if len(points) > 1:
        above = height(ABANDONED)
        ax.plot(x, y, color=ABANDONED, linewidth=1.6, linestyle=DASHES, zorder=above, label="abandoned", gid=CURVE)


def target_line(ax: "Axes", target: float) -> None:
    """Draw the target pass rate."""
    ax.axhline(target, color=FAINT, linewidth=1, linestyle=":")
    ax.annotate(
        f"target {target:g}",
        (1, target),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8.5,
        color=MUTED,
    )


def arrows(ax: "Axes", run: RunData) -> None:
    """An arrow from where each intervention happened back to where its replay starts, in room made below the curves."""
    low, high = ax.get_ylim()
    row = 0.07 * (high - low)
    for number, rollback in enumerate(run.rollbacks, 1):
        y = low - row * (number - 0.5)
        ax.annotate("", (rollback.step, y), (rollback.source, y), arrowprops=ARROW)
        ax.annotate(
            told(rollback),
            (rollback.source, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=MUTED,
        )
    ax.set_ylim(low - row * len(run.rollbacks), high)


def told(rollback: Rollback) -> str:
    """A rollback in words."""
    return f"back by {rollback.source - rollback.step}" + ("" if rollback.guided else ", without guide")


def mark_paid(ax: "Axes", run: RunData, axis: str) -> None:
    """Shade what was spent between leaving a branch and the first step of the next, which the path does not show."""
    for rollback in run.rollbacks:
        before, after = getattr(rollback.before, axis), getattr(rollback.after, axis)
        ax.axvspan(before, after, color="#EFEFEF", linewidth=0, zorder=0, label="spent beside the way")
