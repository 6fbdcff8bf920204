"""What `npo verify` shows of verdicts."""

from typing import Any

from npo_core.reporting.tables import NONE, Table

LONG = 60  # characters of a text that are shown: its end, where the answer is


def verdicts_table(found: dict[str, Any]) -> Table:
    """Every completion with what was read in it and in its reference. Takes `npo_core.problems.verify.verify`'s."""
    rows = []
    for number, row in enumerate(found["rows"], 1):
        verdict = row["outcome"] + (" by a guess" if row["fallback"] else "")
        for first, part in enumerate(row["parts"] or [{}]):
            said = (
                [verdict, *(NONE if row[name] is None else f"{row[name]:g}" for name in ("accuracy", "reward"))]
                if not first
                else ["", "", ""]
            )
            rows.append(
                [
                    str(number) if not first else "",
                    part.get("kind", NONE),
                    part.get("reference") or "cannot be read" if part else NONE,
                    part.get("by") or NONE,
                    end(part.get("claimed")),
                    part.get("value") or NONE,
                    *said,
                ]
            )
    header = ["row", "verifier", "reference", "claimed in", "claim", "read as", "verdict", "accuracy", "reward"]
    note = (
        "A claim that is empty was taken back, stays open, or is a part of something larger. What is right by a guess "
        "had no mark; it is no guidance unless guidance.accept_fallback."
    )
    return Table("Verdicts", header, rows, note, words=tuple(header[1:7]))


def end(text: str | None) -> str:
    """The end of a text in one line."""
    if text is None:
        return NONE
    line = " ".join(text.split())
    return line if len(line) <= LONG else f"...{line[-LONG:]}"
