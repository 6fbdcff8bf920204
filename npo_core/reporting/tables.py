"""Tables of text cells, for Markdown and the terminal alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npo_core.reporting.compare import AXES, Comparison, Crossing, LevelRow, ScoreRow
from npo_core.reporting.costs import StageCost
from npo_core.reporting.metrics import Metrics
from npo_core.reporting.run_data import Course, RunData

NONE = "-"
NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header. The first column is text, the others are figures unless named in `words`."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[str, ...] = ()

    def is_text(self, column: int) -> bool:
        return column == 0 or self.header[column] in self.words


def markdown(table: Table) -> str:
    """The table without its title; the note below."""
    marks = ["---" if table.is_text(column) else "---:" for column in range(len(table.header))]
    lines = [table.header, marks, *table.rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{text}\n\n{table.note}" if table.note else text


def number(value: float | None, digits: int = 0) -> str:
    """Thousands separated; `-` for None."""
    return NONE if value is None else f"{value:z,.{digits}f}"


def plus_minus(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} ± {error:.3f}"


def levels_table(comparison: Comparison) -> Table:
    """What it took both to reach pass rates."""
    header = ["pass rate", "steps", "baseline", "all updates", "baseline", "ratio", "all tokens", "baseline", "ratio"]
    note = (
        "First crossing, interpolated between evaluated snapshots. All updates and generated tokens count abandoned "
        "branches, probes and guidance; a ratio above 1 means that the baseline needed more."
    )
    return Table("To reach a pass rate", header, [level_cells(row) for row in comparison.levels], note)


def level_cells(row: LevelRow) -> list[str]:
    cells = [f"{row.target:.2f}"]
    for axis in AXES:
        cells += [place(row.run, axis), place(row.baseline, axis)]
        if axis != "step":
            cells.append(number(row.ratios[axis], 2))
    return cells


def place(crossing: Crossing | None, axis: str) -> str:
    return NOT_REACHED if crossing is None else number(getattr(crossing, axis))


def scores_table(comparison: Comparison) -> Table:
    """Pass rates at the same place of both."""
    rows = [
        [
            row.at,
            plus_minus(row.run, row.run_error),
            plus_minus(row.baseline, row.baseline_error),
            plus_minus(row.difference, row.difference_error, "+"),
        ]
        for row in comparison.scores
    ]
    note = (
        "± is one standard error over the held-out problems, not over seeds: one pair of runs shows no more than that."
    )
    return Table("Held-out pass rate at equal cost", ["at", "this run", "baseline", "difference"], rows, note)


def costs_table(costs: Sequence[StageCost], title: str = "Cost of each stage") -> Table:
    """Seconds, tokens and updates of every stage, with the sum of what comparisons count."""
    rows = [[cost.label, *cost_cells([cost]), "yes" if cost.counted else "no"] for cost in costs]
    rows.append(["counted, together", *cost_cells([cost for cost in costs if cost.counted]), ""])
    note = "Tokens that evaluations generate are not counted: they are measurement, not training."
    return Table(title, ["stage", "seconds", "generated tokens", "updates", "counted"], rows, note)


def cost_cells(costs: Sequence[StageCost]) -> list[str]:
    sums = [sum(getattr(cost, name) for cost in costs) for name in ("seconds", "tokens", "updates")]
    return [number(sums[0], 1), number(sums[1]), number(sums[2])]


def guidance_table(guidance: Sequence[dict[str, Any]]) -> Table:
    """What guidance caches hold and what they cost, one a column. Takes `RunData.guidance`, or caches' summaries."""
    columns = [dict(guidance_rows(cache)) for cache in guidance]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, NONE) for column in columns)] for name in names]
    return Table("Guidance", ["", *(cache.get("branch", "value") for cache in guidance)], rows)


LEFT_OUT = {
    "refused": "trajectories refused by the second opinion",
    "guessed": "trajectories left out as right by a guess",
}


def guidance_rows(cache: dict[str, Any]) -> list[tuple[str, str]]:
    lengths = cache["lengths"]
    return [
        ("cache", cache["id"]),
        ("cached trajectories", number(cache["rows"])),
        ("of these by guide", ", ".join(f"step {guide['step']}: {guide['rows']}" for guide in cache["guides"])),
        ("prompts asked", number(cache["prompts_asked"])),
        ("prompts skipped, passed already", number(cache["prompts_skipped"])),
        *((name, number(cache[key])) for key, name in LEFT_OUT.items() if cache.get(key)),
        ("coverage Q = cached / asked", f"{cache['coverage']:.3f}"),
        ("samples a cached trajectory", number(cache["samples_per_trajectory"], 2)),
        ("generated tokens a cached trajectory", number(cache["tokens_per_trajectory"], 1)),
        (
            "length in tokens, min / median / max",
            f"{lengths['min']} / {lengths['median']:g} / {lengths['max']}" if lengths else NONE,
        ),
        ("seconds", number(cache["seconds"], 1)),
        ("bytes", number(cache["bytes"])),
    ]


def decisions_table(decisions: Sequence[dict[str, Any]]) -> Table:
    """Every decision, also those against an intervention; below it why, and what came of it."""
    header = ["decision", "step", "branch", "intervene", "Delta", "Q", "KL", "V", "S", "gained"]
    note = (
        "Q, KL (nats a token), V and S are those of the chosen snapshot, from one probe of the policy on its past "
        "failures. Gained is the pass rate of the replay minus that of the abandoned branch, in training, over the "
        "last fifth of the replayed steps."
    )
    sentences = "\n".join(f"* Decision {decision['number']}: {told(decision)}" for decision in decisions)
    rows = [decision_cells(decision) for decision in decisions]
    return Table("Decisions", header, rows, f"{note}\n\n{sentences}", words=("branch", "intervene"))


def decision_cells(decision: dict[str, Any]) -> list[str]:
    chosen = next((c for c in decision["candidates"] if c["delta"] == decision["delta"]), {})
    result = decision.get("outcome")
    return [
        number(decision["number"]),
        number(decision["step"]),
        decision["branch"],
        "yes" if decision["intervene"] else "no",
        number(decision["delta"]),
        *(number(chosen.get(name), 3) for name in ("q", "kl", "v", "s")),
        f"{result['difference']:+.3f}" if result else NONE,
    ]


def told(decision: dict[str, Any]) -> str:
    """The reason of a decision, the answer to it, and what it brought."""
    more = [*answer(decision.get("approval")), *outcome(decision.get("outcome"))]
    return " ".join([decision["reason"], *(f"{words.capitalize()}." for words in more)])


def answer(approval: dict[str, Any] | None) -> list[str]:
    """What somebody said to it."""
    if approval is None:
        return []
    words = {"accept": "accepted", "decline": "declined", "other": f"Delta {approval['delta']} chosen instead"}
    return [words[approval["answer"]]]


def outcome(result: dict[str, Any] | None) -> list[str]:
    """What it brought."""
    if result is None:
        return []
    new, old = result["replay"], result["abandoned"]
    return [
        f"{new['branch']} against {old['branch']}: pass rate {new['pass_rate']:.3f} against {old['pass_rate']:.3f} "
        f"({result['difference']:+.3f}), entropy {new['entropy']:.3f} against {old['entropy']:.3f}"
    ]


def groups_table(run: RunData) -> Table:
    """Dead, injected and rescued groups, by quarters of each segment; by halves where there are many."""
    size, most = run.config.training.prompts_per_step, 4 if len(run.courses) <= 4 else 2
    rows = [
        [f"{course.branch} {a}-{b}{manner(course)}", *group_cells(run.updates(course).between(a, b))]
        for course in run.courses
        for a, b in divided(course.t0, course.t1, most)
    ]
    header = ["steps", "pass rate", "entropy", "all wrong", "all right", "injected", "rescued", "guide KL"]
    note = (
        f"Means over steps. Groups are out of {size} a step, before injection; a rescued group was all wrong and "
        "got a correct slot. Pass rate is on-policy, on training prompts; entropy and guide KL are in nats a token."
    )
    return Table("Groups", header, rows, note)


def manner(course: Course) -> str:
    return " guided" * course.guided + " (abandoned)" * (not course.kept)


def group_cells(part: Metrics) -> list[str]:
    names = [
        ("pass_rate", 3),
        ("entropy", 3),
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


def report_tables(figures: dict[str, Any]) -> list[Table]:
    """The tables of a report that a terminal shows, from the content of report.json."""
    tables = [result_table(figures)]
    if figures["comparison"]:
        levels = [
            LevelRow(row["target"], crossing(row["run"]), crossing(row["baseline"]), row["ratios"])
            for row in figures["comparison"]["levels"]
        ]
        names = ("at", "run", "run_error", "baseline", "baseline_error")
        scores = [ScoreRow(*(row[name] for name in names)) for row in figures["comparison"]["scores"]]
        comparison = Comparison(levels, scores, figures["comparison"]["differing_settings"])
        tables += [scores_table(comparison), levels_table(comparison)]
    if figures["decisions"]:
        tables.append(decisions_table(figures["decisions"]))
    return [*tables, costs_table([StageCost(**cost) for cost in figures["stages"]])]


def crossing(values: dict[str, float] | None) -> Crossing | None:
    return None if values is None else Crossing(**values)


def result_table(figures: dict[str, Any]) -> Table:
    """The run in a few figures."""
    final, target = figures["final"], figures["target"]
    score = plus_minus(final["pass_rate"], final["standard_error"]) if final else "not evaluated yet"
    reached = crossing(target["reached"])
    rows = [
        ["held-out pass rate", score],
        ["after step", number(final["step"]) if final else NONE],
        ["steps done", number(figures["steps_done"])],
        [f"step that first reaches {target['pass_rate']:g}", place(reached, "step")],
        ["updates in all", number(figures["updates_total"])],
        ["generated tokens in all", number(figures["tokens_total"])],
    ]
    return Table(f"{figures['name']}, {figures['kind']}", ["", "value"], rows)


def duration(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3.4 h` or `2.1 days`."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
