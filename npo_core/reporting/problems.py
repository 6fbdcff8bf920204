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
