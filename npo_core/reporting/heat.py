"""Pass rates of prompts that come more than once, prompt by step: what was forgotten, and what was rescued."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npo_core.reporting.plots import BASELINE, INK, RUN, draw, whole_steps
from npo_core.timeline import Store, Stretch
from npo_core.timeline.segments import read_outcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROMPTS, COLUMNS = 40, 120  # of the picture at most: prompts are chosen, steps are put together
SOLVED = 0.5  # pass rate at which a prompt counts as solved


@dataclass(frozen=True)
class Visit:
    """A prompt in one generation batch."""

    step: int
    pass_rate: float
    rescued: bool  # all wrong, and it took a trajectory
    forgotten: bool  # all wrong, after it had been solved


@dataclass(frozen=True)
class Visits:
    """The visits of all prompts that come more than once, rising by step; `asked`: prompts that came at all."""

    by_prompt: dict[str, list[Visit]]
    asked: int

    def chosen(self) -> list[str]:
        """The prompts of the picture: those with most forgotten and rescued visits, then with most visits at all."""

        def rank(prompt: str) -> tuple[int, int, str]:
            visits = self.by_prompt[prompt]
            return -sum(v.forgotten + v.rescued for v in visits), -len(visits), prompt

        return sorted(self.by_prompt, key=rank)[:PROMPTS]


def read_visits(store: Store, path: Sequence[Stretch]) -> Visits:
    """What became of every prompt on the path to the result."""
    found: dict[str, list[Visit]] = defaultdict(list)
    solved: set[str] = set()
    for stretch in path:
        table = read_outcomes(store, stretch.segment)
        columns = [table[name].to_pylist() for name in ("step", "prompt_id", "pass_rate", "injected")]
        for step, prompt, rate, injected in zip(*columns, strict=True):
            if not stretch.t0 < step <= stretch.t1 or rate is None or math.isnan(rate):
                continue
            wrong = rate == 0
            found[prompt].append(Visit(step, rate, wrong and injected, wrong and prompt in solved))
            if rate >= SOLVED:
                solved.add(prompt)
    return Visits({prompt: visits for prompt, visits in found.items() if len(visits) > 1}, len(found))


def told(visits: Visits) -> str:
    """What the picture shows, in sentences."""
    all_of = list(visits.by_prompt.values())
    forgotten = sum(any(v.forgotten for v in of) for of in all_of)
    rescued = [of for of in all_of if any(v.rescued for v in of)]
    first = [next(i for i, v in enumerate(of) if v.rescued) for of in rescued]
    later = sum(any(v.pass_rate > 0 for v in of[i + 1 :]) for of, i in zip(rescued, first, strict=True))
    return (
        f"{len(all_of):,} of {visits.asked:,} prompts came more than once. {forgotten:,} of these were forgotten: all "
        f"wrong after a pass rate of {SOLVED:g} or more. {len(rescued):,} were rescued, all wrong and given a "
        f"trajectory; {later:,} of them had a right completion of the policy's own at a later visit. The picture shows "
        f"the {len(visits.chosen())} with most of both, then with most visits."
    )


def heat_png(visits: Visits) -> bytes:
    """Pass rates of the chosen prompts by step, as a PNG; grey where a prompt was not asked."""
    height = 2.0 + 0.16 * len(visits.chosen())
    return draw("A", (10, height), lambda axes: fill(axes[0], visits))


def fill(ax: "Axes", visits: Visits) -> None:
    """Draw a cell a prompt and step; of steps that are put together, the mean."""
    from matplotlib.colors import LinearSegmentedColormap

    prompts = visits.chosen()
    steps = [visit.step for prompt in prompts for visit in visits.by_prompt[prompt]]
    low, width = min(steps), math.ceil((max(steps) - min(steps) + 1) / COLUMNS)
    columns = (max(steps) - low) // width + 1
    sums, counts = np.zeros((2, len(prompts), columns))
    for row, prompt in enumerate(prompts):
        for visit in visits.by_prompt[prompt]:
            sums[row, (visit.step - low) // width] += visit.pass_rate
            counts[row, (visit.step - low) // width] += 1
    rates = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    colours = LinearSegmentedColormap.from_list("rates", [BASELINE, "#FFFFFF", RUN]).with_extremes(bad="#D5D5D5")
    edges = (low - 0.5, low - 0.5 + columns * width)
    image = ax.imshow(
        rates, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=(*edges, len(prompts), 0)
    )
    ax.figure.colorbar(image, ax=ax, label="pass rate", fraction=0.03, pad=0.01)
    marks(ax, prompts, visits, low, width)
    ax.set(title="pass rate of prompts that came again", xlabel="step", yticks=np.arange(len(prompts)) + 0.5)
    ax.set_yticklabels([prompt[:8] for prompt in prompts], fontsize=6, family="monospace")
    ax.grid(False)
    whole_steps(ax)


def marks(ax: "Axes", prompts: Sequence[str], visits: Visits, low: int, width: int) -> None:
    """A cross where a prompt was forgotten, a ring where it was rescued."""
    for name, mark, face in (("forgotten", "x", INK), ("rescued", "o", "none")):
        places = [
            (low - 0.5 + ((visit.step - low) // width + 0.5) * width, row + 0.5)
            for row, prompt in enumerate(prompts)
            for visit in visits.by_prompt[prompt]
            if getattr(visit, name)
        ]
        if places:
            x, y = zip(*places, strict=True)
            ax.scatter(x, y, marker=mark, s=16, linewidths=1.2, label=name, color=INK).set_facecolor(face)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(0.6, 1.0), ncols=2)
