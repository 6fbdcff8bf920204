"""The signals of a whole run along all updates trained: averages, warnings, decisions with rollbacks, and Q, V, S."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from npo_core.config import Trigger
from npo_core.control.decision import Decision
from npo_core.control.records import Decisions
from npo_core.control.signals import readings
from npo_core.errors import DataError
from npo_core.reporting.plots import ABANDONED, BASELINE, DASHES, EXTRA, INK, MUTED, RUN, draw
from npo_core.reporting.records import Workspace, read_metrics, read_stages, run_segments
from npo_core.reporting.tables import Table, number
from npo_core.timeline import Branch, Segment, Tree, opened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "report/signals.png"
ESTIMATES = {"q": "Q by Delta", "v": "V by Delta", "s": "S = Q / V by Delta"}
COLOURS = (RUN, BASELINE, ABANDONED, EXTRA, INK)  # of decisions, in turn


@dataclass(frozen=True)
class Update:
    """One optimizer update that generated: what it showed, and what the signals made of it.

    number   its place among all updates of the run, those of abandoned branches included, branch by branch as opened
    kept     whether it is on the path to the final branch's tip
    """

    number: int
    branch: str
    step: int
    kept: bool
    snapshot: str | None
    raw_pass_rate: float
    raw_entropy: float
    pass_rate: float
    entropy: float
    gain: float | None
    entropy_drop: float | None
    stagnates: bool
    falls: bool
    warning: bool


@dataclass(frozen=True)
class SignalsData:
    """The updates of a run as its signals see them, and its decisions."""

    trigger: Trigger
    updates: list[Update]
    decisions: list[Decision]

    def number_of(self, decision: Decision) -> int:
        """Where a decision stands among all updates: right after the newest of its branch, or of one it came from."""
        at = [u.number for u in self.updates if u.snapshot == decision.snapshot and u.step == decision.step]
        own = [u.number for u in self.updates if u.branch == decision.branch and u.step <= decision.step]
        return max(own or at, default=0)

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        decisions = [{"number_of_update": self.number_of(d), **d.model_dump(mode="json")} for d in self.decisions]
        updates = [asdict(update) for update in self.updates]
        return {"trigger": self.trigger.model_dump(), "updates": updates, "decisions": decisions}


def read_signals(workspace: Workspace, trigger: Trigger) -> SignalsData:
    """Fold the recorded metrics of every branch, unfinished segments included, into readings.

    Raises:
        DataError: nothing was trained yet.
    """
    segments = run_segments(workspace, read_stages(workspace))
    branches = opened(workspace.timeline.branches())
    updates = list(fold(workspace, trigger, branches, segments))
    if not updates:
        raise DataError(f"{workspace.uri} has no signals yet: no update of a run is committed.")
    return SignalsData(trigger, updates, Decisions(workspace.store).all())


def fold(
    workspace: Workspace, trigger: Trigger, branches: Sequence[Branch], segments: Sequence[Segment]
) -> Iterator[Update]:
    """The updates of all branches as the trigger saw them, in order."""
    tree, done = Tree(branches, segments), 0
    path = tree.stretches(branches[-1].name) if branches else []
    for branch in branches:
        metrics = read_metrics(workspace.store, tree.stretches(branch.name))
        names = ("step", "pass_rate", "entropy", "entropy_on_policy")
        rows = [dict(zip(names, row, strict=True)) for row in zip(*(metrics[name] for name in names), strict=True)]
        own = [segment for segment in segments if segment.branch == branch.name]
        snapshots = {step: id_ for segment in own for step, id_ in segment.produced().items()}
        raw = {row["step"]: row for row in rows}
        kept = {s.segment.branch: s.t1 for s in path}.get(branch.name, -1)
        for reading in readings(rows, trigger):
            if reading.step > branch.parent_step:
                yield Update(
                    number=done + reading.step - branch.parent_step,
                    branch=branch.name,
                    kept=reading.step <= kept,
                    snapshot=snapshots.get(reading.step),
                    raw_pass_rate=raw[reading.step]["pass_rate"],
                    raw_entropy=raw[reading.step]["entropy_on_policy"],
                    **reading.as_dict(),
                )
        done += max((segment.t1 for segment in own), default=branch.parent_step) - branch.parent_step


def readings_table(data: SignalsData) -> Table:
    """What the signals said at every snapshot."""
    header = ["branch", "step", "update", "pass rate", "gain", "entropy", "drop", "they say"]
    rows = [
        [
            u.branch + ("" if u.kept else ", abandoned"),
            number(u.step),
            number(u.number),
            number(u.pass_rate, 3),
            number(u.gain, 3),
            number(u.entropy, 3),
            number(u.entropy_drop, 3),
            said(u),
        ]
        for u in data.updates
        if u.snapshot
    ]
    t = data.trigger
    note = (
        f"Moving averages (ema {t.ema:g}). It stagnates when the pass rate gained less than {t.min_gain:g} over "
        f"{t.window} updates, entropy falls when it lost more than {t.min_entropy_drop:.1%} of itself; both together, "
        f"from update {t.warm_up} on, are a warning."
    )
    return Table("Signals at snapshots", header, rows, note)


def said(update: Update) -> str:
    """What the signals make of an update, in a word or two."""
    words = [word for word, so in (("stagnates", update.stagnates), ("falls", update.falls)) if so]
    return "warning" if update.warning else ", ".join(words)


def signals_png(data: SignalsData) -> bytes:
    """Pass rate and entropy along all updates; below them Q, V and S of every decision that probed."""
    probed = [d for d in data.decisions if d.candidates]
    panels, size = ("AAA;AAA;BBB;BBB;CDE;CDE", (12, 9.5)) if probed else ("A;B", (12, 6.2))
    return draw(panels, size, lambda axes: fill(axes, data, probed))


def fill(axes: Sequence["Axes"], data: SignalsData, probed: Sequence[Decision]) -> None:
    """Draw pass rate and entropy with the decisions."""
    for ax, name, words in zip(axes[:2], ("pass_rate", "entropy"), ("pass rate", "nats a token"), strict=True):
        curves(ax, data, name)
        for decision in data.decisions:
            mark(ax, data, decision)
        ax.set(xlabel="optimizer updates, abandoned ones included", ylabel=words, xlim=(0, data.updates[-1].number))
    axes[0].set_title("Pass rate in training", pad=24)
    axes[1].set_title("Entropy")
    entries = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))  # one entry a name
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axes[1].legend(entries.values(), entries.keys(), ncols=len(entries), **place)
    name_branches(axes[0], data)
    for ax, name in zip(axes[2:], ESTIMATES, strict=False):  # the panels are there where something was probed
        estimates(ax, data, probed, name)


def curves(ax: "Axes", data: SignalsData, name: str) -> None:
    """Each branch by itself, thin as it was and thick as averaged; shade where the signals warn."""
    for part in parts(data.updates):
        x = [u.number for u in part]
        colour, words = (RUN, "moving average") if part[0].kept else (ABANDONED, "moving average, abandoned")
        ax.plot(x, [getattr(u, f"raw_{name}") for u in part], color=colour, alpha=0.3, linewidth=0.7)
        dashes = "-" if part[0].kept else DASHES
        ax.plot(x, [getattr(u, name) for u in part], color=colour, linewidth=2, linestyle=dashes, label=words)
    for update in data.updates:
        if update.warning:
            ax.axvspan(update.number - 1, update.number, color=BASELINE, alpha=0.13, linewidth=0, label="warning")


def parts(updates: Sequence[Update]) -> list[list[Update]]:
    """The updates of one branch that share a fate."""
    found: dict[tuple[str, bool], list[Update]] = {}
    for update in updates:
        found.setdefault((update.branch, update.kept), []).append(update)
    return list(found.values())


def mark(ax: "Axes", data: SignalsData, decision: Decision) -> None:
    """A line where a decision was made: solid where it intervened, dotted where it did not."""
    words, style = ("decision: intervened", "-") if decision.intervene else ("decision: did not intervene", ":")
    ax.axvline(data.number_of(decision), color=INK, linewidth=1.2, linestyle=style, label=words)


def name_branches(ax: "Axes", data: SignalsData) -> None:
    """Above the panel: each branch with its steps, and the number of each decision."""
    for name in dict.fromkeys(u.branch for u in data.updates):
        own = [u for u in data.updates if u.branch == name]
        told = f"{name}: steps {own[0].step} to {own[-1].step}"
        above(ax, own[0].number, told, 4, "left", MUTED)
    for decision in data.decisions:
        back = f"back to {decision.rollback.step}" if decision.rollback else "rescue" if decision.intervene else "no"
        above(ax, data.number_of(decision), f"{decision.number}: {back}", 15, "center", INK)


def above(ax: "Axes", x: float, text: str, up: float, side: str, colour: str) -> None:
    """Write a text above the axes."""
    ax.annotate(
        text,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, up),
        textcoords="offset points",
        ha=side,
        fontsize=8.5,
        color=colour,
        annotation_clip=False,
    )


def estimates(ax: "Axes", data: SignalsData, probed: Sequence[Decision], name: str) -> None:
    """One estimate of every decision over Delta; the chosen Delta is filled."""
    for i, decision in enumerate(probed):
        found = [c for c in sorted(decision.candidates, key=lambda c: c.delta) if getattr(c, name) is not None]
        colour = COLOURS[i % len(COLOURS)]
        x, y = [c.delta for c in found], [getattr(c, name) for c in found]
        ax.plot(x, y, color=colour, linewidth=1.6, label=f"decision {decision.number}, step {decision.step}")
        faces = [colour if c.delta == decision.delta else "white" for c in found]
        ax.scatter(x, y, s=26, zorder=3, edgecolors=colour, facecolors=faces)
    least = min([0, *(c.delta for decision in probed for c in decision.candidates)])
    ax.set(title=ESTIMATES[name], xlabel="Delta, updates back (filled: chosen)", xlim=(least, None))
    if name == "q":
        ax.legend(loc="best", fontsize=8.5)
