"""Training by segment: one by itself, for the artifact of the stage that trained it, and all of a run in tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npo_core.reporting.plots import RUN, draw, fill_dead, fill_signal, finish, half_window, line, name_rates
from npo_core.reporting.records import Metrics, read_metrics
from npo_core.reporting.roles import RunSegment
from npo_core.reporting.run_data import RunData
from npo_core.reporting.tables import Table, number
from npo_core.timeline import Segment, Store, Stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = {
    "pass_rate": "pass rate, on-policy",
    "reward": "reward, after injection",
    "entropy_on_policy": "entropy of the policy's own tokens, nats a token",
    "entropy": "entropy of all tokens trained on, nats a token",
    "groups_all_wrong": "groups all wrong",
    "groups_all_right": "groups all right",
    "groups_injected": "groups injected",
    "groups_rescued": "groups rescued",
    "guide_kl": "KL(guide || policy), nats a token",
    "grad_norm": "gradient norm",
    "completion_length": "completion length, tokens",
    "cut_off": "share of completions cut off",
}
UNVERIFIED = {"verified_unparsable": "unparsable", "verified_timeout": "timed out", "verified_crash": "crashed"}


def segment_metrics(store: Store, segment: Segment) -> Metrics:
    """The metrics of a finished segment. Raises DamagedError where a table cannot be read."""
    return read_metrics(store, [Stretch(segment, segment.t0, segment.t1)])


def segment_rows(metrics: Metrics) -> dict[str, str]:
    """For each figure: mean over the segment, and over its first and last fifth; what it has none of is left out."""
    steps = metrics.steps
    fifth = max(1, len(steps) // 5)
    first, last = metrics.until(steps[fifth - 1]), metrics.between(steps[-fifth] - 1, steps[-1])
    means = {
        words: [number(part.mean(name), 3) for part in (metrics, first, last)]
        for name, words in ROWS.items()
        if metrics.mean(name) is not None
    }
    return {words: f"{whole}, {begin} → {end}" for words, (whole, begin, end) in means.items()}


def segment_png(metrics: Metrics) -> bytes:
    """Pass rate, entropy, dead groups and injection (or gradient norm) over the segment's updates."""
    return draw("AB;CD", (10, 6.4), lambda axes: fill(axes, metrics, half_window(len(metrics))), False)


def fill(axes: Sequence["Axes"], metrics: Metrics, half: int) -> None:
    """Draw a segment's pass rate, entropy, groups without signal and guide."""
    rate, entropy, dead, signal = axes
    line(rate, metrics, "pass_rate", RUN, "pass rate", half)
    line(entropy, metrics, "entropy_on_policy", RUN, "entropy", half)
    name_rates(rate, entropy)
    fill_dead(dead, [metrics], half)
    fill_signal(signal, [metrics], half)
    finish(axes, left=metrics.steps[0] - 1)


def groups_table(run: RunData) -> Table:
    """Dead, injected and rescued groups, by quarters of each segment; by halves where there are many."""
    size, most = run.config.training.prompts_per_step, 4 if len(run.segments) <= 4 else 2
    rows = [
        [named(segment, a, b), *group_cells(run.updates(segment).between(a, b))]
        for segment in run.segments
        for a, b in divided(segment.t0, segment.t1, most)
    ]
    header = ["steps", "pass rate", "entropy", "all wrong", "all right", "injected", "rescued", "guide KL"]
    note = (
        f"Means over steps. Groups are out of {size} a step, before injection; a rescued group was all wrong and "
        "got a correct slot. Pass rate is on-policy, on training prompts; entropy and guide KL are in nats a token."
    )
    return Table("Groups", header, rows, note)


def named(segment: RunSegment, t0: int, t1: int) -> str:
    """The steps (t0, t1] of a segment in words."""
    return f"{segment.branch} {t0}-{t1}" + " guided" * segment.guided + " (abandoned)" * (not segment.kept)


def group_cells(part: Metrics) -> list[str]:
    """Means over updates of what happened to groups."""
    names = [
        ("pass_rate", 3),
        ("entropy_on_policy", 3),
        ("groups_all_wrong", 1),
        ("groups_all_right", 1),
        ("groups_injected", 1),
        ("groups_rescued", 1),
        ("guide_kl", 3),
    ]
    return [number(part.mean(name), digits) for name, digits in names]


def divided(t0: int, t1: int, most: int) -> list[tuple[int, int]]:
    """The steps (t0, t1] in equal parts, at most as many as there are steps."""
    parts = min(most, t1 - t0)
    edges = [t0 + round((t1 - t0) * i / parts) for i in range(parts + 1)]
    return list(zip(edges, edges[1:], strict=False))


def verification_table(run: RunData) -> Table | None:
    """Answers of which training learned nothing about right or wrong, by segment; None where there were none."""
    parts = [(segment, run.updates(segment)) for segment in run.segments]
    counts = [(segment, [sum(value or 0 for value in part[name]) for name in UNVERIFIED]) for segment, part in parts]
    if not any(any(values) for _, values in counts):
        return None
    rows = [[named(segment, segment.t0, segment.t1), *map(number, values)] for segment, values in counts]
    note = (
        "Answers in training. An unparsable one has no final answer and is wrong. Where verification timed out or "
        "crashed twice nobody knows: such answers count in no pass rate and are not trained on."
    )
    return Table("Verification", ["steps", *UNVERIFIED.values()], rows, note)
