"""Any number of runs side by side: their held-out curves in one picture, and the settings in which they differ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.compare import AXES, flatten
from npo_core.reporting.curves import legend_above, same_heights
from npo_core.reporting.plots import (
    ABANDONED,
    BASELINE,
    DASHES,
    EXTRA,
    INK,
    MUTED,
    RUN,
    draw,
    short_number,
    whole_steps,
)
from npo_core.reporting.run_data import RunData
from npo_core.reporting.tables import NONE, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (RUN, BASELINE, ABANDONED, EXTRA, INK)
X_LABELS = ("step of the way to the result", "optimizer updates, abandoned ones included", "generated tokens in all")


def several(runs: Sequence[RunData], names: Sequence[str]) -> bytes:
    """Held-out pass rate of each run by step, by all updates and by all generated tokens."""
    return draw("AA;BC", (10, 8), lambda axes: fill(axes, runs, names), False)


def fill(axes: Sequence["Axes"], runs: Sequence[RunData], names: Sequence[str]) -> None:
    for axis, label, ax in zip(AXES, X_LABELS, axes, strict=True):
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            x, y = [getattr(point, axis) for point in run.points], [point.pass_rate for point in run.points]
            dashes = "-" if number < len(COLOURS) else DASHES
            colour = COLOURS[number % len(COLOURS)]
            ax.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=4, linewidth=2, label=name)
        ax.set(xlabel=label, ylabel="held-out pass rate")
        ax.set_xlim(left=0)
    whole_steps(axes[0])
    axes[2].xaxis.set_major_formatter(lambda value, _: short_number(value))
    same_heights(axes)
    legend_above(axes)
    if not any(run.points for run in runs):
        axes[0].text(0.5, 0.5, "nothing evaluated yet", transform=axes[0].transAxes, ha="center", color=MUTED)


def differences(runs: Sequence[RunData], names: Sequence[str]) -> Table:
    """The settings that are not the same in all runs; name and machine are left out."""
    settings = [flatten(run.config.model_dump(mode="json", exclude={"name", "execution"})) for run in runs]
    fields = sorted(set().union(*settings))
    rows = [
        [field, *(str(values.get(field, NONE)) for values in settings)]
        for field in fields
        if len({repr(values.get(field)) for values in settings}) > 1
    ]
    return Table("Settings that differ", ["setting", *names], rows, "" if rows else "None.", tuple(names))
