"""Answers of which training learned nothing about right or wrong, by segment."""

from npo_core.reporting.run_data import Course, RunData
from npo_core.reporting.tables import Table, manner, number

COUNTED = {"verified_unparsable": "unparsable", "verified_timeout": "timed out", "verified_crash": "crashed"}


def verification_table(run: RunData) -> Table | None:
    """How many answers could not be read or verified; None where there were none."""
    counts = [(course, [count(run, course, column) for column in COUNTED]) for course in run.courses]
    if not any(any(values) for _, values in counts):
        return None
    rows = [
        [f"{course.branch} {course.t0}-{course.t1}{manner(course)}", *map(number, values)] for course, values in counts
    ]
    note = (
        "Answers in training. An unparsable one has no final answer and is wrong. Where verification timed out or "
        "crashed twice nobody knows: such answers count in no pass rate and are not trained on."
    )
    return Table("Verification", ["steps", *COUNTED.values()], rows, note)


def count(run: RunData, course: Course, column: str) -> float:
    return sum(value or 0 for value in run.updates(course)[column])
