"""Tables of text cells, for Markdown and the terminal alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npo_core.problems.faults import named
from npo_core.reporting.costs import StageCost

NONE = "-"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header. The first column is text, the others are figures unless named in `words`."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[str, ...] = ()

    def is_text(self, column: int) -> bool:
        """Whether a column holds words and not numbers."""
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


def costs_table(costs: Sequence[StageCost], title: str = "Cost of each stage") -> Table:
    """Seconds, tokens and updates of every stage, with the sum of what comparisons count."""
    rows = [[cost.label, *cost_cells([cost]), "yes" if cost.counted else "no"] for cost in costs]
    rows.append(["counted, together", *cost_cells([cost for cost in costs if cost.counted]), ""])
    note = "Tokens that evaluations generate are not counted: they are measurement, not training."
    return Table(title, ["stage", "seconds", "generated tokens", "updates", "counted"], rows, note)


def cost_cells(costs: Sequence[StageCost]) -> list[str]:
    """Seconds, tokens and updates of stages together."""
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
    """What a cache holds, by name."""
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
        "Q, KL (nats a token), V and S are those of the chosen candidate, from one probe of the policy on its past "
        "failures. Gained, where the run was rolled back, is the pass rate of the replay minus that of the abandoned "
        "branch, in training, over the last fifth of the replayed steps."
    )
    sentences = "\n".join(f"* Decision {decision['number']}: {told(decision)}" for decision in decisions)
    rows = [decision_cells(decision) for decision in decisions]
    return Table("Decisions", header, rows, f"{note}\n\n{sentences}", words=("branch", "intervene"))


def decision_cells(decision: dict[str, Any]) -> list[str]:
    """The cells of a decision."""
    chosen: dict[str, Any] = next((c for c in decision["candidates"] if c["delta"] == decision["delta"]), {})
    result = decision.get("outcome")
    return [
        number(decision["number"]),
        number(decision["step"]),
        decision["branch"],
        "yes" if decision["intervene"] else "no",
        number(decision["delta"]),
        *(number(chosen.get(name), 3) for name in ("q", "kl", "v", "s")),
        NONE if result is None or result["difference"] is None else f"{result['difference']:+.3f}",
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
    if old is None:
        return [
            f"{new['branch']} went on to step {result['t1']}: {result['groups_rescued']} groups that were all wrong "
            f"got a trajectory, pass rate {new['pass_rate']:.3f}, entropy {new['entropy']:.3f} at the end"
        ]
    return [
        f"{new['branch']} against {old['branch']}: pass rate {new['pass_rate']:.3f} against {old['pass_rate']:.3f} "
        f"({result['difference']:+.3f}), entropy {new['entropy']:.3f} against {old['entropy']:.3f}"
    ]


def problems_table(problems: dict[str, dict[str, Any]]) -> Table:
    """Rows read, used and dropped, and why, from the report of problems from data."""
    names = {"train": "training", "held_out": "held-out"}
    names |= {part: part.removeprefix("benchmarks.") for part in sorted(problems) if part not in names}
    parts = [(part, problems[part]) for part in names]  # records keep no order of their own
    rows = [
        [
            names[part],
            found["source"],
            number(found["rows"]),
            number(found["problems"]),
            number(sum(dropped["count"] for dropped in found["dropped"])),
            "{min:,} / {median:,} / {max:,}".format(**found["prompt_tokens"]) if found["prompt_tokens"] else NONE,
            number(found["images"]),
        ]
        for part, found in parts
    ]
    dropped = [
        f"Dropped from {names[part]}: {why['why']}: {named(why['rows'], why['count'])}."
        for part, found in parts
        for why in found["dropped"]
    ]
    notes = dropped or ["No row was dropped."]
    if any(found.get("chat") is False for _, found in parts):
        notes.append("Prompts are plain text, without a chat template.")
    notes += [
        f"Special tokens are written out in the text of {names[part]}, {named(said['rows'], said['count'])}, and the "
        f"model reads them as such: {', '.join(said['tokens'])}."
        for part, found in parts
        if (said := found.get("special"))
    ]
    header = ["problems", "source", "rows", "used", "dropped", "tokens a prompt: min / median / max", "images"]
    return Table("Problems", header, rows, " ".join(notes), words=("source",))


def duration(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3.4 h` or `2.1 days`."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
