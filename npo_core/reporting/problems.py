"""What became of the rows of problems from data."""

from typing import Any

from npo_core.problems.faults import named
from npo_core.reporting.tables import NONE, Table, number


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
    header = ["problems", "source", "rows", "used", "dropped", "tokens a prompt: min / median / max", "images"]
    note = " ".join(dropped or ["No row was dropped."])
    return Table("Problems", header, rows, note, words=("source",))
