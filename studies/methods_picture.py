"""A picture a task: pass rate of the arms that say most by everything spent, a panel a kind of cost."""

from pathlib import Path

from studies.arms import BASELINE, BASELINES
from studies.paired import COSTS, Curves, known_costs, with_cost

PICTURED = (
    "grpo",
    "grpo-4",
    "grpo-16",
    "rare-success-replay",
    "pool-rescue-replay-8",
    "pool-rescue-replay-8-of-4",
    "npo-early",
    "auto-npo",
    "far-future",
)  # more lines cannot be told apart; the tables have all


def draw(task: str, arms: dict[str, Curves], path: Path) -> None:
    """Mean pass rate of each arm by all updates, FLOPs and tokens, with the seeds' range of the headline arms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import EngFormatter

    costs = known_costs(arms, BASELINE)
    figure, panels = plt.subplots(1, len(costs), figsize=(5 * len(costs), 4.6), sharey=True)
    colours = dict(zip(PICTURED, plt.get_cmap("tab10").colors, strict=False))
    for panel, cost in zip(panels, costs, strict=True):
        for name, found in arms.items():
            if name not in PICTURED or not (curves := list(with_cost(found, cost).values())):
                continue
            length = min(map(len, curves))
            spent, rates = (
                np.array([[getattr(point, what) for point in curve[:length]] for curve in curves])
                for what in (cost, "pass_rate")
            )
            x, style = spent.mean(axis=0), "--" if name in BASELINES else "-"
            panel.plot(x, rates.mean(axis=0), style, color=colours[name], label=name, linewidth=1.8)
            panel.fill_between(x, rates.min(axis=0), rates.max(axis=0), color=colours[name], alpha=0.08)
        longest = max(getattr(points[-1], cost) for points in with_cost(arms[BASELINE], cost).values())
        panel.set(xlim=(0, longest), ylim=(0, 1), xlabel=f"{COSTS[cost].removeprefix('equal ')} in all")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("held-out pass rate")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(f"Task {task}: mean over seeds, shaded from the lowest to the highest")
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)
