"""Rows of a source that cannot be used, collected so that one error names them all."""

from npo_core.errors import DataError

SHOWN = 5  # rows named of each kind; the others are counted


class Unusable(Exception):
    """Says what is wrong with a row, to go before its number."""


class Faults:
    """What is wrong with the rows of one source, by kind."""

    def __init__(self, source: str):
        self.source = source
        self.rows: dict[str, list[str]] = {}

    def add(self, what: str, row: str) -> None:
        """Note what is wrong with a row."""
        self.rows.setdefault(what, []).append(row)

    def check(self) -> None:
        """Raises DataError if there are any: the source, each kind, its first rows and their number."""
        if self.rows:
            kinds = "".join(f"\n  {what}: {named(rows, len(rows))}" for what, rows in self.rows.items())
            raise DataError(f"{self.source} has rows that cannot be used; correct or remove them:{kinds}")


def named(rows: list[str], count: int) -> str:
    """`row 3`, or `rows 3, 7 (2 in all)`; of many rows the first few are enough."""
    if count == 1:
        return f"row {rows[0]}"
    more = ", ..." if count > SHOWN else ""
    return f"rows {', '.join(rows[:SHOWN])}{more} ({count:,} in all)"
