"""Pictures of all arms and seeds."""

from pathlib import Path

import numpy as np

from studies.results_report import BASELINE, PLACES, Places, at, by_arm, column, interval

COLOURS = {
    "GRPO": "#444444",
    "NPO, scout 20": "#56B4E9",
    "NPO, scout 60": "#0072B2",
    "NPO, scout 120": "#CC79A7",
    "NPO, ladder 20-60": "#009E73",
    "NPO, ladder 20-120": "#D55E00",
    "rollback without guide, scout 60": "#B8A000",
    "NPO early": "#0072B2",
    "NPO late": "#56B4E9",
    "NPO early + late": "#009E73",
    "AutoNPO": "#D55E00",
    "AutoNPO, bootstrap": "#CC79A7",
    "late rollback without guide": "#B8A000",
    "NPO late, Delta 40": "#A0CBE8",
    "NPO late, Delta 200": "#2E5A88",
}


MAIN = ["GRPO", "NPO early", "NPO late", "NPO early + late", "AutoNPO", "AutoNPO, bootstrap"]  # at an equal total


def draw_seeds(arms: dict, places: Places, path: Path) -> None:
    """Each seed by all updates, one panel a seed, and in the last panel where the arms end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seeds = sorted(arms[BASELINE])
    figure, panels = plt.subplots(2, 3, figsize=(15, 8.5))
    for panel, seed in zip(panels.flat, seeds, strict=False):
        for name in MAIN:
            points = [point for point in arms[name][seed] if point["step"] > 0]
            x, y = ([point[key] for point in points] for key in ("updates", "pass_rate"))
            panel.plot(x, y, "--" if name == BASELINE else "-", color=COLOURS[name], label=name, linewidth=1.8)
        panel.set(title=f"seed {seed}", ylim=places.rates, xlim=(0, None), xlabel="optimizer updates in all")
        panel.set_ylabel("held-out pass rate")
    panels.flat[0].legend(loc="lower right", frameon=False)
    last = panels.flat[-1]
    for row, name in enumerate(reversed(MAIN)):
        ends = [arms[name][seed][-1]["pass_rate"] for seed in seeds]
        last.plot(ends, [row] * len(ends), "o", color=COLOURS[name], alpha=0.7)
        last.plot([np.mean(ends)] * 2, [row - 0.3, row + 0.3], color=COLOURS[name], linewidth=2.5)
    last.set_yticks(range(len(MAIN)), list(reversed(MAIN)))
    last.set(title="at the end: seeds, and their mean as a bar", xlim=places.rates, xlabel="held-out pass rate")
    for panel in panels.flat:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def draw(arms: dict, places: Places, path: Path) -> None:
    """Mean pass rate by step and by all generated tokens, and between them the paired difference to GRPO by step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (steps, differences, tokens) = plt.subplots(1, 3, figsize=(17, 5))
    for panel, axis in [(steps, "step"), (tokens, "tokens")]:
        for name, seeds in arms.items():
            x, curves = grid(seeds, axis)
            style = "-" if "NPO" in name else "--"
            scale = 1000 if axis == "tokens" else 1
            panel.plot(x / scale, curves.mean(0), style, color=COLOURS[name], label=name, linewidth=2)
        panel.set(ylim=places.rates, ylabel="held-out pass rate, mean of seeds")
    for shift, name in enumerate(arm for arm in arms if arm != BASELINE):
        bars = [interval(column(arms[name], "step", v) - column(arms[BASELINE], "step", v)) for v in places.steps]
        differences.errorbar(
            [v + 1.6 * (shift - 2.5) for v in places.steps],
            [mean for mean, _ in bars],
            yerr=[half for _, half in bars],
            fmt="o",
            color=COLOURS[name],
            markersize=4,
        )
    differences.axhline(0, color=COLOURS[BASELINE], linestyle="--")
    differences.set(ylim=places.differences, ylabel="pass rate minus GRPO's at the same step, 95 % interval")
    for panel in (steps, differences):
        panel.set(xlim=(0, places.steps[-1] + 5), xlabel="optimizer updates of the final branch")
    tokens.set(xlabel="all generated tokens, scout and guidance counted (thousands)")
    tokens.legend(loc="lower right", frameon=False)
    for panel in (steps, differences, tokens):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def grid(seeds: dict, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """A common axis over seeds, and the pass rate of each seed on it."""
    low = max(points[0][axis] for points in seeds.values())
    high = min(points[-1][axis] for points in seeds.values())
    x = np.linspace(low, high, 60)
    return x, np.array([[at(points, axis, v) for v in x] for _, points in sorted(seeds.items())])


def picture(group: str, results: list[dict], docs: Path) -> None:
    """The picture of a group, in docs/pictures."""
    places = PLACES[group]
    (draw_seeds if group == "auto" else draw)(by_arm(results), places, docs / "pictures" / places.picture)
