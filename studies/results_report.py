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


def write(group: str, results: list[dict], docs: Path) -> None:
    """Replace the generated part of a group in docs/results-published.md."""
    arms, places = by_arm(results), PLACES[group]
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
    start, end = (f"<!-- {word} of what python -m studies.results {group} generated -->" for word in ("begin", "end"))
    page = docs / "results-published.md"
    text = page.read_text()
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(f"{before}{start}\n\n{generated}\n\n{end}{after}")
