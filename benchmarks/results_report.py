"""Tables and pictures from the points of all arms and seeds: means, 95 % t-intervals, paired differences to GRPO."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Two-sided 95 % quantile of Student's t by degrees of freedom (number of seeds - 1).
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
BASELINE = "GRPO"
TARGETS = [0.6, 0.7, 0.8, 0.9, 0.95]


@dataclass(frozen=True)
class Places:
    """Where the curves of a group of arms are read, and how its picture is cut."""

    steps: list[int]
    updates: list[int]
    picture: str
    rates: tuple[float, float]
    differences: tuple[float, float]


PLACES = {
    "early": Places(
        [20, 40, 60, 80, 100, 120, 140, 160, 180, 200],
        [60, 80, 100, 120, 140, 160, 180, 220, 260, 320],
        "results.png",
        (0.45, 0.95),
        (-0.16, 0.26),
    ),
    "auto": Places(
        [60, 120, 140, 160, 180, 200, 220, 240, 260, 300, 340],
        [120, 160, 200, 240, 280, 320, 360, 400],
        "results-auto.png",
        (0.5, 1.0),
        (-0.12, 0.16),
    ),
}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % t-interval over seeds."""
    n = len(values)
    return float(values.mean()), float(T95[n - 1] * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def by_arm(results: list[dict]) -> dict[str, dict[int, list[dict]]]:
    arms: dict[str, dict[int, list[dict]]] = defaultdict(dict)
    for result in results:
        arms[result["arm"]][result["seed"]] = result["points"]
    return arms


def at(points: list[dict], axis: str, value: float) -> float:
    """Pass rate at a value of `step`, `updates` or `tokens`, linear between evaluated snapshots; NaN outside.

    On the total axes a replay's curve starts where the scout and the guidance have been paid for.
    """
    x = [p[axis] for p in points]
    return float(np.interp(value, x, [p["pass_rate"] for p in points], left=np.nan, right=np.nan))


def crossing(points: list[dict], axis: str, target: float) -> float:
    """First value of the axis at which the pass rate reaches the target, linear between snapshots; NaN if never."""
    for a, b in zip(points, points[1:], strict=False):
        if b["pass_rate"] >= target:
            share = (
                (target - a["pass_rate"]) / (b["pass_rate"] - a["pass_rate"]) if b["pass_rate"] != a["pass_rate"] else 1
            )
            return a[axis] + max(share, 0.0) * (b[axis] - a[axis])
    return math.nan


def column(seeds: dict[int, list[dict]], axis: str, value: float) -> np.ndarray:
    return np.array([at(points, axis, value) for _, points in sorted(seeds.items())])


def show(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "-"
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def rate_table(arms: dict, axis: str, values: list[int]) -> list[str]:
    lines = [f"| pass rate at {axis} | " + " | ".join(map(str, values)) + " |", "|---" * (len(values) + 1) + "|"]
    for name, seeds in arms.items():
        lines.append(f"| {name} | " + " | ".join(show(column(seeds, axis, v)) for v in values) + " |")
    return lines


def difference_table(arms: dict, axis: str, values: list[int]) -> list[str]:
    """Mean of the differences seed by seed, with their interval; bold where the interval leaves 0 out."""
    lines = [f"| minus GRPO at {axis} | " + " | ".join(map(str, values)) + " |", "|---" * (len(values) + 1) + "|"]
    for name, seeds in arms.items():
        if name == BASELINE:
            continue
        cells = []
        for value in values:
            delta = column(seeds, axis, value) - column(arms[BASELINE], axis, value)
            cells.append(signed(delta))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def target_table(arms: dict) -> list[str]:
    """Updates of the final branch, all updates, and all generated tokens until a pass rate is first reached."""
    lines = ["| first reaches | " + " | ".join(f"{t:.2f}" for t in TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    for axis, word in [("step", "steps"), ("updates", "all updates"), ("tokens", "all tokens, 1000")]:
        for name, seeds in arms.items():
            cells = []
            for target in TARGETS:
                reached = np.array([crossing(points, axis, target) for points in seeds.values()])
                known = reached[~np.isnan(reached)] / (1000 if axis == "tokens" else 1)
                missing = f" ({len(known)}/{len(reached)})" if len(known) < len(reached) else ""
                cells.append(f"{known.mean():.0f}{missing}" if len(known) else "never")
            lines.append(f"| {name}: {word} | " + " | ".join(cells) + " |")
    return lines


def last_table(arms: dict) -> list[str]:
    """The end of every seed: pass rate, and below the means what GRPO has at the same total of updates."""
    seeds = sorted(next(iter(arms.values())))
    head = ["arm", *(f"seed {s}" for s in seeds), "mean", "at step", "all updates", "minus GRPO at as many updates"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, by_seed in arms.items():
        ends = [by_seed[s][-1] for s in seeds]
        rates = np.array([end["pass_rate"] for end in ends])
        beside = np.array(
            [at(arms[BASELINE][s], "updates", end["updates"]) for s, end in zip(seeds, ends, strict=True)]
        )
        where = [span([end[axis] for end in ends]) for axis in ("step", "updates")]
        cells = [*(f"{rate:.3f}" for rate in rates), show(rates), *where]
        lines.append("| " + " | ".join([name, *cells, "" if name == BASELINE else signed(rates - beside)]) + " |")
    return lines


def span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def signed(delta: np.ndarray) -> str:
    """Mean of the differences with its interval; bold where the interval leaves 0 out."""
    if np.isnan(delta).any():
        return "-"
    mean, half = interval(delta)
    text = f"{mean:+.3f} ± {half:.3f}"
    return f"**{text}**" if abs(mean) > half else text


def decisions_table(results: list[dict]) -> list[str]:
    """Every decision of AutoNPO: what it saw and what came of it."""
    head = ["arm", "seed", "at step", "past failures solved", "Delta", "Q", "KL a token", "V", "S", "brought"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for result in results:
        for made in result.get("decisions", []):
            if made["flow"] == "auto-npo":
                solved = "-" if made["pool_q"] is None else f"{made['pool_q']:.3f}"
                cells = [result["arm"], str(result["seed"]), str(made["step"]), solved, *choice_cells(made)]
                lines.append("| " + " | ".join(cells) + " |")
    return lines if len(lines) > 2 else []


def choice_cells(made: dict) -> list[str]:
    """Delta, its estimates, and the pass rate that the replay gained over the abandoned branch."""
    if not made["intervene"]:
        return ["none", "", "", "", "", ""]
    best = next(c for c in made["candidates"] if c["delta"] == made["delta"])
    came = made.get("outcome")
    return [
        str(made["delta"]),
        *(f"{best[name]:.3f}" for name in ("q", "kl", "v", "s")),
        f"{came['difference']:+.3f}" if came else "",
    ]


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


def write(group: str, results: list[dict], docs: Path) -> None:
    """Replace the generated part of a group in docs/results.md, and its picture."""
    arms, places = by_arm(results), PLACES[group]
    (draw_seeds if group == "auto" else draw)(arms, places, docs / "pictures" / places.picture)
    parts = [
        rate_table(arms, "step", places.steps),
        difference_table(arms, "step", places.steps),
        rate_table(arms, "updates", places.updates),
        difference_table(arms, "updates", places.updates),
        target_table(arms),
        last_table(arms),
        decisions_table(results),
    ]
    generated = "\n\n".join("\n".join(part) for part in parts if part)
    start, end = (
        f"<!-- {word} of what python -m benchmarks.results {group} generated -->" for word in ("begin", "end")
    )
    page = docs / "results.md"
    text = page.read_text()
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(f"{before}{start}\n\n{generated}\n\n{end}{after}")
