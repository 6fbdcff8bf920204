"""One decision by itself, for its artifact and the terminal: window, candidates, and what it brought."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npo_core.config import Trigger
from npo_core.control.decide import averaged
from npo_core.control.decision import Decision, Scored
from npo_core.control.plateau import find_plateau
from npo_core.control.probe import Candidate, ProbeResult
from npo_core.control.records import Result
from npo_core.control.signals import readings, watched_entropy
from npo_core.names import PLATEAU
from npo_core.reporting.plots import ABANDONED, BASELINE, EXTRA, FAINT, MUTED, RUN, draw, half_window, smooth
from npo_core.reporting.tables import Table, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Rows = Sequence[Row]
PROBED = ["Delta", "snapshot", "probed failures", "Q", "KL"]
PROBE_NOTE = (
    "Delta > 0: roll back so many updates to the snapshot; 0: stay, with extra samples; < 0: stay, and the snapshot "
    "guides. "
    "Q: pass rate of the guide on the probed failures in reach. KL(guide || guided) in nats a token, on the same "
    "completions."
)
FATE = "chosen, or why excluded"
PRICES = ["solved", "updates", "tokens", "seconds", "per price"]
CHOICE_NOTE = (
    "V grows with the KL; of those not excluded the rule chooses: signal the largest S = Q / V, signal_per_price the "
    "largest solved / V / tokens."
)
PRICE_NOTE = "Expected: failures solved, updates replayed, tokens generated. Per price: solved / V / tokens."
TITLES = {
    "q": "Q: share of past failures solved",
    "kl": "KL(guide || guided), nats a token",
    "v": "V: variance cost",
    "s": "S = Q / V: effective signal",
}


def verdict(decision: Decision) -> str:
    """What was decided, in few words."""
    if not decision.intervene:
        return "do not intervene"
    if decision.rollback is not None:
        return f"roll back by Delta = {decision.delta}, from step {decision.step} to step {decision.rollback.step}"
    if decision.guide is not None:
        return f"stay at step {decision.step}, guided by the snapshot of step {decision.guide.step}"
    return f"stay at step {decision.step} and draw extra samples (Delta = 0)"


def probe_table(probe: ProbeResult) -> Table:
    """What a probe found of each snapshot, nearest first."""
    candidates = sorted([*probe.candidates, *probe.behind], key=lambda c: c.delta)
    return Table("Candidates", PROBED, [probed(c) for c in candidates], PROBE_NOTE)


def candidates_table(decision: Decision) -> Table:
    """The snapshots that a decision considered, nearest first."""
    rows = [[*probed(c), number(c.v, 3), number(c.s, 4), fate(decision, c)] for c in nearest_first(decision)]
    header = ["Delta", *PROBED[1:], "V", "S", FATE]
    note = f"{PROBE_NOTE} {CHOICE_NOTE} {other_rule(decision)}".rstrip()
    return Table("Candidates", header, rows, note, words=(FATE,))


def prices_table(decision: Decision) -> Table:
    """What each candidate is expected to bring and to cost, nearest first; no rows in a decision of before 0.3."""
    rows = [[number(c.delta), *priced(c)] for c in nearest_first(decision) if c.price is not None]
    return Table("Prices", ["Delta", *PRICES], rows, PRICE_NOTE)


def nearest_first(decision: Decision) -> list[Scored]:
    """The candidates by Delta."""
    return sorted(decision.candidates, key=lambda c: c.delta)


def fate(decision: Decision, candidate: Scored) -> str:
    """What became of a candidate."""
    return "chosen" if decision.intervene and candidate.delta == decision.delta else candidate.excluded or ""


def other_rule(decision: Decision) -> str:
    """What each rule chooses, where they differ."""
    chosen = {rule: delta for rule, delta in decision.choices.items() if delta is not None}
    if len(set(chosen.values())) < 2:
        return ""
    return "; ".join(f"{rule} would choose Delta = {delta}" for rule, delta in chosen.items()) + "."


def priced(candidate: Scored) -> list[str]:
    """The cells of a candidate's price; none where it was not recorded."""
    if candidate.price is None:
        return []
    price = candidate.price
    per_price = "-" if candidate.per_price is None else f"{candidate.per_price:.3g}"
    return [
        number(round(candidate.rescued or 0)),
        number(price.updates),
        number(round(price.tokens)),
        number(price.seconds, 1),
        per_price,
    ]


def probed(candidate: Candidate) -> list[str]:
    """The cells of a candidate."""
    counts = [number(value) for value in (candidate.delta, candidate.step, candidate.prompts)]
    return [*counts, number(candidate.q, 3), number(candidate.kl, 4)]


def thresholds_table(decision: Decision) -> Table:
    """What was compared with which setting, and all other settings that the decision depends on."""
    seen = decision.signals["reading"] or {}
    read = {
        "min_gain": f"gained {number(seen.get('gain'), 3)}",
        "min_entropy_drop": f"lost {number(seen.get('entropy_drop'), 3)}",
        "warm_up": f"at update {decision.step}",
        "min_solved": number(decision.pool_q, 3),
    }
    groups = {name: group for name, group in decision.thresholds.items() if isinstance(group, dict)}
    rows = [
        [f"{group}.{name}", str(value), read.get(name, "")] for group in groups for name, value in groups[group].items()
    ]
    return Table("Thresholds", ["setting", "value", "seen"], rows)


def decision_png(decision: Decision, rows: Rows) -> bytes:
    """The picture of a decision.

    AutoNPO: the window of the signals with their averages, and Q, KL, V, S over Delta.
    Plateau breakthrough: pass rate and entropy of all updates, with the plateau and the rollback.

    Args:
        rows: metrics of every update on the way to the decision.
    """
    if decision.flow == PLATEAU:
        return draw("A;B", (10, 6), lambda axes: fill_plateau(axes, decision, rows))
    if decision.candidates:
        return draw("AACD;BBEF", (13, 6), lambda axes: fill_choice(axes, decision))
    return draw("AB", (10, 3.2), lambda axes: fill_window(axes, decision))


def fill_choice(axes: Sequence["Axes"], decision: Decision) -> None:
    """Window and estimates."""
    fill_window(axes[:2], decision)
    for ax, name in zip(axes[2:], TITLES, strict=True):
        estimate(ax, decision, name)


def fill_window(axes: Sequence["Axes"], decision: Decision) -> None:
    """Pass rate and entropy with their averages; the thresholds as the lines that the averages must not cross."""
    window, seen, trigger = decision.signals["window"], decision.signals["reading"], decision.thresholds["trigger"]
    for ax, name in zip(axes, ("pass_rate", "entropy"), strict=True):
        with_average(ax, window, name)
        ax.set(xlabel="step")
    rate, entropy = axes
    rate.set(ylabel="pass rate", title="Pass rate")
    entropy.set(ylabel="nats a token", title="Entropy")
    if seen and seen["gain"] is not None:
        least, most = trigger["min_gain"], trigger["min_entropy_drop"]
        rate.set_title(f"Pass rate gained {seen['gain']:+.3f}: {'stagnates' if seen['stagnates'] else 'rises'}")
        entropy.set_title(f"Entropy lost {seen['entropy_drop']:.1%}: {'falls' if seen['falls'] else 'does not fall'}")
        limit(rate, window[0]["average_pass_rate"] + least, f"stagnates below: min_gain {least:g}")
        limit(entropy, window[0]["average_entropy"] * (1 - most), f"falls below: min_entropy_drop {most:g}")
    for ax in axes:
        ax.legend(loc="best")


def with_average(ax: "Axes", window: Rows, name: str) -> None:
    """A thin raw line and its moving average."""
    steps = [row["step"] for row in window]
    ax.plot(steps, [row[name] for row in window], color=RUN, alpha=0.3, linewidth=0.8, label="each update")
    ax.plot(steps, [row[f"average_{name}"] for row in window], color=RUN, linewidth=2, label="moving average")


def limit(ax: "Axes", height: float, name: str) -> None:
    """Draw a threshold."""
    ax.axhline(height, color=BASELINE, linewidth=1.3, linestyle="--", label=name)


def estimate(ax: "Axes", decision: Decision, name: str) -> None:
    """One estimate over Delta: candidates that can be chosen filled, excluded ones hollow, Delta* marked."""
    found = [c for c in sorted(decision.candidates, key=lambda c: c.delta) if getattr(c, name) is not None]
    x, y = [c.delta for c in found], [getattr(c, name) for c in found]
    back = [(c.delta, getattr(c, name)) for c in found if c.delta > 0]  # what stays is no point of their curve
    ax.plot([delta for delta, _ in back], [value for _, value in back], color=RUN, linewidth=1.6)
    ax.scatter(x, y, s=30, zorder=3, edgecolors=RUN, facecolors=[RUN if c.excluded is None else "white" for c in found])
    if decision.delta is not None:
        ax.axvline(decision.delta, color=BASELINE, linewidth=1.3, linestyle="--", label=f"Delta* = {decision.delta}")
        ax.legend(loc="best")
    ax.set_title(TITLES[name], fontsize=9.5)
    ax.set(xlabel="Delta (> 0: updates back)", xlim=(min([0, *x]) - 5 * (min([0, *x]) < 0), None))


def fill_plateau(axes: Sequence["Axes"], decision: Decision, rows: Rows) -> None:
    """All updates with the plateau's level and beginning, and the stretch that is replayed."""
    window = averaged(rows, readings(rows, Trigger(**decision.thresholds["trigger"])))
    for ax, name in zip(axes, ("pass_rate", "entropy"), strict=True):
        with_average(ax, window, name)
        ax.set(xlabel="step", xlim=(0, None))
        if decision.rollback is not None:
            back = f"rolled back and replayed: {decision.rollback.step} to {decision.step}"
            ax.axvspan(decision.rollback.step, decision.step, color=RUN, alpha=0.1, linewidth=0, label=back)
    rate, entropy = axes
    rate.set(ylabel="pass rate", title="Pass rate")
    entropy.set(ylabel="nats a token", title="Entropy")
    mark_plateau(rate, decision, rows)
    rate.legend(loc="best")


def mark_plateau(ax: "Axes", decision: Decision, rows: Rows) -> None:
    """Where the plateau was found; a rollback to a given step looked for none."""
    found = find_plateau(rows, Trigger(**decision.thresholds["trigger"]))
    if found is None or decision.thresholds["rollback_step"] is not None:
        return
    level = f"level {found.level:.3f} at the last warning, update {found.warned}"
    ax.axhline(found.level, color=BASELINE, linewidth=1.3, linestyle="--", label=level)
    ax.axvline(found.began, color=EXTRA, linewidth=1.5, label=f"nearly reached at update {found.began}")


def outcome_table(result: Result) -> Table:
    """The replay against the abandoned branch; of a rescue, the branch that went on."""
    pairs = [("pass rate", "pass_rate"), ("entropy, nats a token", "entropy")]
    new, old = result.replay, result.abandoned
    counted = f"{result.groups_injected} groups took guidance, {result.groups_rescued} of them all wrong before."
    if old is None:
        rows = [[words, number(getattr(new, name), 3)] for words, name in pairs]
        where = f"over the last fifth of steps {result.t0} to {result.t1}, failures among the prompts"
        note = f"In training, {where}. {counted}"
        return Table("Outcome", ["", new.branch], rows, note)
    rows = [
        [words, number(getattr(new, name), 3), number(getattr(old, name), 3), signed(new, old, name)]
        for words, name in pairs
    ]
    note = f"In training, over the last fifth of steps {result.t0} to {result.t1}, on the same prompts. {counted}"
    return Table("Outcome", ["", new.branch, f"{old.branch} (abandoned)", "difference"], rows, note)


def signed(new: object, old: object, name: str) -> str:
    """The difference of a field between two records, with its sign."""
    return f"{getattr(new, name) - getattr(old, name):+.3f}"


def outcome_png(result: Result, new: Rows, old: Rows) -> bytes:
    """Pass rate and entropy of both branches over the replayed steps."""
    return draw("AB", (11, 3.8), lambda axes: fill_outcome(axes, result, new, old))


def fill_outcome(axes: Sequence["Axes"], result: Result, new: Rows, old: Rows) -> None:
    """Draw replay and abandoned branch over the same steps."""
    branches = [(new, RUN, result.replay.branch)]
    if result.abandoned is not None:
        branches.insert(0, (old, ABANDONED, f"{result.abandoned.branch} (abandoned)"))
    values = {"pass rate": lambda row: row["pass_rate"], "nats a token": watched_entropy}
    for ax, (words, value) in zip(axes, values.items(), strict=True):
        for rows, colour, branch in branches:
            smoothed(ax, rows, value, colour, branch)
        ax.axvspan(result.t1 - (result.t1 - result.t0) / 5, result.t1, color=FAINT, alpha=0.15, linewidth=0)
        ax.set(xlabel="step", ylabel=words, xlim=(result.t0, result.t1))
    at_end = "" if result.difference is None else f": {result.difference:+.3f} at the end"
    axes[0].set_title(f"Pass rate in training{at_end}")
    axes[1].set_title("Entropy")
    axes[0].annotate(
        "compared",
        (1, 0),
        xycoords="axes fraction",
        xytext=(-3, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=MUTED,
    )
    axes[0].legend(loc="best")


def smoothed(ax: "Axes", rows: Rows, value: Callable[[Row], float | None], colour: str, label: str) -> None:
    """Draw a value per step, raw and smoothed."""
    known = [(row["step"], found) for row in rows if (found := value(row)) is not None]
    steps, values = [step for step, _ in known], [found for _, found in known]
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
    ax.plot(steps, smooth(values, half_window(len(values))), color=colour, linewidth=1.9, label=label)
