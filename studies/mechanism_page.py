"""Tables and pictures of `studies.mechanism`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.paired import interval

if TYPE_CHECKING:
    from studies.mechanism import Course, Source

BEGIN, END = "<!-- begin of what python -m studies.mechanism generated -->", "<!-- end -->"
PANELS: dict[str, Callable[["Course"], Sequence[float]]] = {
    "groups that are all wrong": lambda c: c.wrong,
    "groups that are all right": lambda c: c.right,
    "live groups": lambda c: [1 - a - b for a, b in zip(c.wrong, c.right, strict=True)],
    "entropy, nats a token": lambda c: c.entropy,
}
AFTER: dict[str, Callable[["Course"], Sequence[float]]] = {
    "held-out problems that were solved and are not": lambda c: c.lost,
    "held-out problems that were lost and are solved again": lambda c: c.regained,
}


def names(items: Sequence[Any], key: Callable[[Any], Any]) -> list[Any]:
    """Different keys in the order of the items."""
    return list(dict.fromkeys(map(key, items)))


def cell(values: Sequence[float], digits: int = 2) -> str:
    """A mean with its 95 % interval over seeds."""
    if np.isinf(values).any():
        return "nothing rescued"
    mean, low, high = interval(values)
    text = f"{mean:.{digits}f}"
    return text if np.isnan(low) else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def sources_table(found: Sequence["Source"]) -> str:
    """A line a place and source."""
    lines = ["| update | source | Q, 8 samples | Q, 32 samples | KL, nats a token | tokens a rescue | with the scout |"]
    lines.append("|---|---|---|---|---|---|---|")
    for place, name in names(sorted(found, key=lambda s: s.place), lambda s: (s.place, s.name)):
        of = [s for s in found if (s.place, s.name) == (place, name)]
        cells = [cell([s.q8 for s in of]), cell([s.q32 for s in of]), cell([s.kl for s in of])]
        cells += [cell([s.tokens for s in of], 0), cell([s.tokens + s.scout for s in of], 0)]
        lines.append(f"| {place} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spending_table(courses: Sequence["Course"]) -> str:
    """A line an arm: where its generated tokens went."""
    kinds = list(courses[0].tokens)
    lines = [f"| arm | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for arm in names(courses, lambda c: c.arm):
        shares = [[c.tokens[kind] for c in courses if c.arm == arm] for kind in kinds]
        lines.append(f"| `{arm}` | {' | '.join(f'{np.mean(of):.2f}' for of in shares)} |")
    return "\n".join(lines)


def lost_table(courses: Sequence["Course"]) -> str:
    """A line an arm: shares of the held-out problems at the last update that all arms have."""
    step = min(c.steps[-1] for c in courses)
    lines = [f"| arm | lost at update {step} | lost before and solved at {step} |", "|---|---|---|"]
    for arm in names(courses, lambda c: c.arm):
        of = [(c, c.steps.index(step)) for c in courses if c.arm == arm]
        lines.append(f"| `{arm}` | {cell([c.lost[i] for c, i in of], 3)} | {cell([c.regained[i] for c, i in of], 3)} |")
    return "\n".join(lines)


def page(courses: Sequence["Course"], found: Sequence["Source"]) -> str:
    """All tables in Markdown."""
    seeds = len(names(courses, lambda c: c.seed))
    return "\n\n".join([
        f"Means over {seeds} seeds, with 95 % intervals from three seeds on.",
        "### Sources at three places of a run of GRPO", sources_table(found),
        "### Where the tokens go", spending_table(courses),
        "### Lost and regained", lost_table(courses),
    ])  # fmt: skip


def draw(courses: Sequence["Course"], path: Path) -> None:
    """What batches were made of and what was lost, a line an arm, mean over seeds, shaded from least to most."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(15, 8))
    colours = plt.get_cmap("tab10").colors
    for panel, (title, values) in zip(panels.flat, (PANELS | AFTER).items(), strict=True):
        for colour, arm in zip(colours, names(courses, lambda c: c.arm), strict=False):
            of = [c for c in courses if c.arm == arm]
            x = of[0].windows if title in PANELS else of[0].steps
            rows = np.array([values(c) for c in of])
            panel.plot(x, rows.mean(axis=0), color=colour, label=arm, linewidth=1.8)
            panel.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.1)
        panel.set(title=title, xlabel="update of the final branch", xlim=(0, 300), ylim=(0, None))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_sources(found: Sequence["Source"], path: Path) -> None:
    """Q by 32 samples against the tokens of a rescue, its scout's too, a panel a place; the area grows with KL."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    places = names(sorted(found, key=lambda s: s.place), lambda s: s.place)
    figure, panels = plt.subplots(1, len(places), figsize=(5 * len(places), 4.6), sharey=True, squeeze=False)
    kinds = names(found, lambda s: s.name)
    colours = dict(zip(kinds, plt.get_cmap("tab10").colors, strict=False))
    for panel, place in zip(panels[0], places, strict=True):
        for name in kinds:
            of = [s for s in found if (s.place, s.name) == (place, name) and np.isfinite(s.tokens)]
            if of:
                x, y, kl = (
                    np.mean(of_it) for of_it in zip(*((s.tokens + s.scout, s.q32, s.kl) for s in of), strict=True)
                )
                panel.scatter(x, y, s=60 + 300 * max(kl, 0), color=colours[name], alpha=0.75, label=name)
        panel.set(title=f"update {place}", xlabel="tokens a rescue, with the scout", xscale="log", ylim=(0, 1))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, markerscale=0.6)
    panels[0][0].set_ylabel("share of dead prompts that 32 samples solve")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def write(courses: Sequence["Course"], found: Sequence["Source"], docs: Path) -> None:
    """Tables into docs/mechanism.md between its marks, pictures beside."""
    draw(courses, docs / "pictures/mechanism.png")
    draw_sources(found, docs / "pictures/mechanism-sources.png")
    path = docs / "mechanism.md"
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{page(courses, found)}\n\n{END}{rest.split(END)[1]}")
