"""The report's two pictures, as PNG bytes: held-out curves, and how training went."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.metrics import Column, Metrics
from npo_core.reporting.run_data import CurvePoint, RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart with any colour vision.
RUN, BASELINE, SCOUT, EXTRA, INK, MUTED, FAINT = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#333333",
    "#6B6B6B",
    "#9A9A9A",
)
TINTS = {RUN: 12, BASELINE: 12, SCOUT: 12, EXTRA: 12, "#000000": 24}  # in a picture's palette, for edges and bands
STYLE = {
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 9.5,
}
Names = tuple[str, str]


def curves(run: RunData, baseline: RunData | None = None, names: Names = ("this run", "baseline")) -> bytes:
    """Held-out pass rate with its 95 % band, by step and by all generated tokens."""
    return draw(2, (10, 4.4), lambda axes: fill_curves(axes, run, baseline, names))


def fill_curves(axes: Sequence["Axes"], run: RunData, baseline: RunData | None, names: Names) -> None:
    for axis, ax in zip(("step", "tokens_total"), axes, strict=True):
        if baseline is not None:
            curve(ax, axis, baseline.points, BASELINE, names[1], "s")
        if len(run.scout_points) > 1:
            thin(ax, axis, run.scout_points)
        curve(ax, axis, run.points, RUN, names[0], "o")
        target_line(ax, run.config.evaluation.target)
        ax.set_ylabel("held-out pass rate")
    by_step, by_tokens = axes
    by_step.set(title="by step", xlabel="step (optimizer update of the final branch)")
    by_tokens.set(title="by everything generated", xlabel="generated tokens, scout and guidance included")
    by_step.set_xlim(0, max(ends(by_step), run.guided_until or 0) * 1.05)
    by_tokens.set_xlim(0, max(ends(by_tokens), run.spent.tokens) * 1.04)
    by_tokens.xaxis.set_major_formatter(lambda value, _: short_number(value))
    mark_guided(by_step, run, "guidance ends")
    mark_spent(by_tokens, run)
    if by_step.get_legend_handles_labels()[0]:
        by_step.legend(loc="lower right", reverse=True)
    else:
        by_step.text(0.5, 0.5, "nothing evaluated yet", transform=by_step.transAxes, ha="center", color=MUTED)
    same_heights(axes)


def ends(ax: "Axes") -> float:
    """The right end of all curves; 1 where there is none."""
    return max(
        [max(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) and line.get_label()[0] != "_"], default=1
    )


def same_heights(axes: Sequence["Axes"]) -> None:
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(max(0.0, low), min(1.0, high))


def curve(ax: "Axes", axis: str, points: Sequence[CurvePoint], colour: str, name: str, marker: str) -> None:
    if not points:
        return
    x, y = [getattr(point, axis) for point in points], [point.pass_rate for point in points]
    margin = [1.96 * point.standard_error for point in points]
    low, high = [a - b for a, b in zip(y, margin, strict=True)], [a + b for a, b in zip(y, margin, strict=True)]
    ax.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    ax.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=2, label=name)


def thin(ax: "Axes", axis: str, points: Sequence[CurvePoint]) -> None:
    x, y = [getattr(point, axis) for point in points], [point.pass_rate for point in points]
    ax.plot(x, y, color=SCOUT, linewidth=1.4, linestyle=(0, (4, 2)), label="scout")


def target_line(ax: "Axes", target: float) -> None:
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


def mark_guided(ax: "Axes", run: RunData, words: str | None) -> None:
    """A vertical line at the last guided step."""
    if run.guided_until is None:
        return
    ax.axvline(run.guided_until, color=FAINT, linewidth=1, linestyle="--")
    if words:
        left = run.guided_until > 0.7 * ax.get_xlim()[1]
        ax.annotate(
            words,
            (run.guided_until, 0),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if left else 4, 5),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8.5,
            color=MUTED,
        )


def mark_spent(ax: "Axes", run: RunData) -> None:
    """The tokens that were spent before the final branch began."""
    if not run.spent.tokens:
        return
    ax.axvspan(0, run.spent.tokens, color="#EFEFEF", linewidth=0, zorder=0)
    ax.annotate(
        f"scout {short_number(run.spent.tokens_scout)}\nguidance {short_number(run.spent.tokens_guidance)}",
        (0, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -3),
        textcoords="offset points",
        va="top",
        fontsize=8.5,
        color=MUTED,
    )


def training(run: RunData, baseline: RunData | None = None, names: Names = ("this run", "baseline")) -> bytes:
    """What happened at each update: pass rate, entropy, dead groups, and injection."""
    return draw(4, (10, 6.4), lambda axes: fill_training(axes, run, baseline, names))


def fill_training(axes: Sequence["Axes"], run: RunData, baseline: RunData | None, names: Names) -> None:
    rate, entropy, dead, fourth = axes
    half, size = half_window(len(run.steps)), run.config.training.prompts_per_step
    for ax, column in ((rate, "pass_rate"), (entropy, "entropy")):
        if baseline is not None:
            line(ax, baseline.steps, column, BASELINE, names[1], half, raw=False)
        line(ax, run.scout, column, SCOUT, "scout", half, dashes=(4, 2), raw=False)
        line(ax, run.steps, column, RUN, names[0], half)
    name_rates(rate, entropy)
    fill_dead(dead, run.steps, half, size)
    shown = run.steps.until(run.guided_until) if run.guided_until else run.steps
    fill_signal(fourth, shown, half_window(len(shown)), size)
    for ax in (rate, entropy, dead):
        mark_guided(ax, run, "guidance ends" if ax is rate else None)
    finish(axes)


def name_rates(rate: "Axes", entropy: "Axes") -> None:
    rate.set(title="training pass rate, on-policy", ylabel="pass rate")
    entropy.set(title="entropy of the policy", ylabel="nats a token", ylim=(0, None))


def fill_dead(ax: "Axes", steps: Metrics, half: int, size: int | None = None) -> None:
    """Groups without a signal of their own."""
    line(ax, steps, "groups_all_wrong", RUN, "all wrong", half)
    line(ax, steps, "groups_all_right", EXTRA, "all right", half)
    ax.set(title="dead groups, before injection", ylabel=f"groups of {size} a step" if size else "groups a step")
    whole_numbers(ax)


def fill_signal(ax: "Axes", steps: Metrics, half: int, size: int | None = None) -> None:
    """Groups that took guidance; the gradient norm where none did."""
    if not any(steps["groups_injected"]):
        line(ax, steps, "grad_norm", RUN, "gradient norm", half)
        ax.set(title="gradient norm, before clipping", ylabel="L2 norm", ylim=(0, None))
        return
    line(ax, steps, "groups_injected", RUN, "injected", half)
    line(ax, steps, "groups_rescued", EXTRA, "of these all wrong: rescued", half)
    ax.set(title="groups that took guidance", ylabel=f"groups of {size} a step" if size else "groups a step")
    whole_numbers(ax)


def finish(axes: Sequence["Axes"], left: int = 0) -> None:
    for ax in axes:
        ax.set(xlabel="step", xlim=(left, None))
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend(loc="best")


def whole_numbers(ax: "Axes") -> None:
    ax.set_ylim(bottom=0)
    ax.yaxis.get_major_locator().set_params(integer=True)


def line(
    ax: "Axes",
    metrics: Metrics,
    column: str,
    colour: str,
    name: str,
    half: int,
    *,
    dashes: tuple[int, int] | None = None,
    raw: bool = True,
) -> None:
    """A smoothed line over the raw one."""
    x, y = present(metrics["step"], metrics[column])
    if not x:
        return
    if raw:
        ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.7)
    ax.plot(x, smooth(y, half), color=colour, linewidth=1.9, label=name, linestyle=(0, dashes) if dashes else "-")


def present(x: Column, y: Column) -> tuple[list[float], list[float]]:
    """The places that have a value."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [a for a, _ in kept], [b for _, b in kept]


def half_window(updates: int) -> int:
    """Half of a twentieth of the updates, at least 2."""
    return max(2, updates // 40)


def smooth(values: Sequence[float], half: int) -> list[float]:
    """Centred moving mean over 2 * half + 1 values; the window is cut at the ends."""
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def short_number(value: float) -> str:
    """1,250,000 as 1.25M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def draw(panels: int, size: tuple[float, float], fill: Callable[[Sequence["Axes"]], None]) -> bytes:
    """A figure of panels, two a row, as a PNG of 1,200 pixels width; the same data gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        fill(list(figure.subplots(panels // 2, 2).flat))
        canvas.draw()
        return png(canvas.buffer_rgba())


def png(pixels: memoryview) -> bytes:
    """Pixels [height, width, 4] as a PNG with a palette, a third of the size, since it travels inside web pages."""
    from PIL import Image

    height, width, _ = pixels.shape
    palette = Image.new("P", (1, 1))
    palette.putpalette([round(255 * level) for colour, number in TINTS.items() for level in tints(colour, number)])
    image = Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1).convert("RGB")
    sink = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(sink, "png", optimize=True)
    return sink.getvalue()


def tints(colour: str, number: int) -> list[float]:
    """A colour on its way to white: red, green, blue in 0..1, one tint after another."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [1 - (1 - part) * (number - i) / number for i in range(number + 1) for part in parts]
