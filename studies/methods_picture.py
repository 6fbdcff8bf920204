"""A picture a task: pass rate of all arms by everything spent, a panel a kind of cost."""

from pathlib import Path

from studies.arms import ARMS, BASELINE, BASELINES
from studies.paired import COSTS, Curves, known_costs, with_cost


def draw(task: str, arms: dict[str, Curves], path: Path) -> None:
    """Mean pass rate of each arm by all updates, FLOPs and tokens, with the seeds' range of the headline arms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import EngFormatter

    costs = known_costs(arms, BASELINE)
    figure, panels = plt.subplots(1, len(costs), figsize=(5 * len(costs), 4.6), sharey=True)
    colours = dict(zip(ARMS, plt.get_cmap("turbo")(np.linspace(0, 1, len(ARMS))), strict=True))
    for panel, cost in zip(panels, costs, strict=True):
        for name, found in arms.items():
            if not (curves := list(with_cost(found, cost).values())):
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
    panels[-1].legend(loc="lower right", frameon=False, fontsize=8)
    figure.suptitle(f"Task {task}: mean over seeds, shaded from the lowest to the highest")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
