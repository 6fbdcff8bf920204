"""How training went, as a picture, and what all pictures share: colours, lines, marks, PNG bytes."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.records import Column, Metrics
from npo_core.reporting.run_data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart with any colour vision.
RUN, BASELINE, ABANDONED, EXTRA, INK, MUTED, FAINT = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#333333",
    "#6B6B6B",
    "#9A9A9A",
)
TINTS = {RUN: 12, BASELINE: 12, ABANDONED: 12, EXTRA: 12, "#000000": 24}  # in a picture's palette, for edges and bands
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
GUIDED, DASHES = "guided replay", (0, (4, 2))


def training(run: RunData, baseline: RunData | None = None, names: Names = ("this run", "baseline")) -> bytes:
    """What happened at each update: pass rate, entropy, dead groups, and injection."""
    return draw("AB;CD", (10, 6.8), lambda axes: fill_training(axes, run, baseline, names), False)


def fill_training(axes: Sequence["Axes"], run: RunData, baseline: RunData | None, names: Names) -> None:
    """Draw pass rate, entropy, groups without signal and the guide's signal."""
    rate, entropy, dead, fourth = axes
    half, size, parts = half_window(len(run.steps)), run.config.training.prompts_per_step, kept(run)
    for ax, column in ((rate, "pass_rate"), (entropy, "entropy_on_policy")):
        for part in parts:
            line(ax, part, column, RUN, names[0], half)
        for old in run.abandoned:
            line(ax, old.steps, column, ABANDONED, "abandoned", half, dashes=DASHES, raw=False)
        for part in kept(baseline) if baseline else []:
            line(ax, part, column, BASELINE, names[1], half, raw=False)
    name_rates(rate, entropy)
    fill_dead(dead, parts, half, size)
    fill_signal(fourth, parts, half, size)
    for ax in axes:
        mark_rollbacks(ax, run, GUIDED if ax is rate else None)
    finish(axes)


def kept(run: RunData) -> list[Metrics]:
    """The updates on the path to the result, a segment each: what changes between two is not to be smoothed."""
    return [run.updates(segment) for segment in run.segments if segment.kept]


def entries(axes: Sequence["Axes"]) -> dict[str, list]:
    """What a legend shows, one entry a name, in the order drawn."""
    named = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    unique: dict = {}
    for handle, name in named:
        unique.setdefault(name, handle)
    return {"handles": list(unique.values()), "labels": list(unique)}


def mark_rollbacks(ax: "Axes", run: RunData, name: str | None = None) -> None:
    """A line where each intervention happened, and shade where its replay was guided; `name` is for the legend."""
    for rollback in run.rollbacks:
        ax.axvline(rollback.source, color=FAINT, linewidth=1, linestyle=":")
    for segment in run.segments:
        if segment.guided and segment.kept:
            ax.axvspan(segment.t0, segment.t1, color="#E4F1F9", linewidth=0, zorder=0, label=name)


def name_rates(rate: "Axes", entropy: "Axes") -> None:
    """Title and scale of pass rate and entropy."""
    rate.set(title="training pass rate, on-policy", ylabel="pass rate")
    entropy.set(title="entropy of the policy", ylabel="nats a token", ylim=(0, None))


def fill_dead(ax: "Axes", parts: Sequence[Metrics], half: int, size: int | None = None) -> None:
    """Groups without a signal of their own."""
    for part in parts:
        line(ax, part, "groups_all_wrong", RUN, "all wrong", half)
        line(ax, part, "groups_all_right", EXTRA, "all right", half)
    ax.set(title="dead groups, before injection", ylabel=f"groups of {size} a step" if size else "groups a step")
    whole_numbers(ax)


def fill_signal(ax: "Axes", parts: Sequence[Metrics], half: int, size: int | None = None) -> None:
    """Groups that took guidance; the gradient norm where none did."""
    if not any(any(part["groups_injected"]) for part in parts):
        for part in parts:
            line(ax, part, "grad_norm", RUN, "gradient norm", half)
        ax.set(title="gradient norm, before clipping", ylabel="L2 norm", ylim=(0, None))
        return
    for part in parts:
        line(ax, part, "groups_injected", RUN, "injected", half)
        line(ax, part, "groups_rescued", EXTRA, "of these all wrong: rescued", half)
    ax.set(title="groups that took guidance", ylabel=f"groups of {size} a step" if size else "groups a step")
    whole_numbers(ax)


def finish(axes: Sequence["Axes"], left: int = 0) -> None:
    """Label the steps and add legends."""
    for ax in axes:
        ax.set(xlabel="step", xlim=(left, None))
        whole_steps(ax)
        shown = entries([ax])
        if len(shown["labels"]) > 1:
            ax.legend(**shown, loc="best")


def whole_steps(ax: "Axes") -> None:
    """Ticks at whole steps alone, of a run of two as well."""
    ax.locator_params("x", integer=True, min_n_ticks=1)


def whole_numbers(ax: "Axes") -> None:
    """Count from 0 in whole numbers."""
    ax.set_ylim(bottom=0)
    ax.locator_params("y", integer=True)


def line(
    ax: "Axes",
    metrics: Metrics,
    column: str,
    colour: str,
    name: str,
    half: int,
    *,
    dashes: tuple | None = None,
    raw: bool = True,
) -> None:
    """A smoothed line over the raw one."""
    x, y = present(metrics["step"], metrics[column])
    if not x:
        return
    if raw:
        ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.7)
    above, dashed = height(colour), dashes or "-"
    ax.plot(x, smooth(y, half), color=colour, linewidth=1.9, label=name, linestyle=dashed, zorder=above)


def height(colour: str) -> float:
    """The run lies over what was abandoned, and that over the baseline, though legends name it first."""
    return {RUN: 3.0, ABANDONED: 2.5}.get(colour, 2.0)


def present(x: Column, y: Column) -> tuple[list[float], list[float]]:
    """The places that have a value."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [a for a, _ in kept], [b for _, b in kept]


def half_window(updates: int) -> int:
    """Half of a twentieth of the updates; of fewer than 40 every one is shown as it was."""
    return updates // 40


def smooth(values: Sequence[float], half: int) -> list[float]:
    """Centred moving mean over 2 * half + 1 values; towards the ends over fewer, the first and the last as they are."""
    last = len(values) - 1
    sides = (min(half, i, last - i) for i in range(len(values)))
    windows = (values[i - side : i + side + 1] for i, side in enumerate(sides))
    return [sum(window) / len(window) for window in windows]


def short_number(value: float) -> str:
    """1,250,000 as 1.25M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def draw(
    panels: str, size: tuple[float, float], fill: Callable[[Sequence["Axes"]], None], measured: bool = True
) -> bytes:
    """A figure as a PNG of 1,200 pixels width; the same data gives the same bytes. `panels`: rows as in `AA;BC`.

    Margins are measured, which is half of the work; where labels are always as short, `measured` is False.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, dpi=120, layout="constrained" if measured else None)
        canvas = FigureCanvasAgg(figure)
        places = {} if measured else margins(size, rows=panels.count(";") + 1)
        fill([ax for _, ax in sorted(figure.subplot_mosaic(panels, gridspec_kw=places).items())])
        canvas.draw()
        return png(canvas.buffer_rgba(), canvas.get_width_height())


def margins(size: tuple[float, float], rows: int) -> dict[str, float]:
    """Room for titles, labels and ticks of two columns of panels, in shares of a figure of `size` inches."""
    width, height = size
    left, right, top, bottom, between, under = 0.68, 0.12, 0.32, 0.5, 0.78, 0.86  # inches
    inner = (width - left - right - between) / 2, (height - top - bottom - under * (rows - 1)) / rows
    return {
        "left": left / width,
        "right": 1 - right / width,
        "top": 1 - top / height,
        "bottom": bottom / height,
        "wspace": between / inner[0],
        "hspace": under / inner[1],
    }


def png(pixels: memoryview, size: tuple[int, int]) -> bytes:
    """Pixels [height, width, 4] as a PNG with a palette, a third of the size, since it travels inside web pages.

    `size`: width and height.
    """
    from PIL import Image

    palette = Image.new("P", (1, 1))
    palette.putpalette([round(255 * level) for colour, number in TINTS.items() for level in tints(colour, number)])
    image = Image.frombuffer("RGBA", size, pixels, "raw", "RGBA", 0, 1).convert("RGB")
    sink = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(sink, "png", optimize=True)
    return sink.getvalue()


def tints(colour: str, number: int) -> list[float]:
    """A colour on its way to white: red, green, blue in 0..1, one tint after another."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [1 - (1 - part) * (number - i) / number for i in range(number + 1) for part in parts]
