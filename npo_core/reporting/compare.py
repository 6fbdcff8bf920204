"""One run against another: when each first reaches a pass rate, and what each reaches at equal cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from npo_core.errors import DataError
from npo_core.reporting.intervals import LABEL, Interval, difference, shown
from npo_core.reporting.roles import AUTO_NPO, GRPO
from npo_core.reporting.run_data import CurvePoint, RunData
from npo_core.reporting.tables import Table, number

INTERPOLATED = "≈ "  # before a figure that lies between two evaluated snapshots
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
AXES = ("step", "updates_total", "tokens_total")
METHOD_SETTINGS = {"injection", "guidance", "bootstrap", "auto"}
AT = ("step {:,.0f}", "{:,.0f} updates in all", "{:,.0f} generated tokens in all")


@dataclass(frozen=True)
class Crossing:
    """Where a curve first reaches a level, on each axis; interpolated linearly between evaluated snapshots."""

    step: float
    updates_total: float
    tokens_total: float
    after: int  # step of the evaluated snapshot before it, which is below the level; `before` where there is none
    before: int  # step of the evaluated snapshot that has reached it

    @property
    def measured(self) -> bool:
        """Whether it is an evaluated snapshot itself, and nothing is interpolated."""
        return self.step == self.before


class Value(NamedTuple):
    """A pass rate on a curve, with its 95 % interval."""

    pass_rate: float
    interval: Interval
    measured: bool  # at an evaluated snapshot; else interpolated


@dataclass(frozen=True)
class LevelRow:
    """A pass rate and what it took to reach it; None: not reached. A ratio is baseline / run, above 1 the run wins."""

    target: float
    run: Crossing | None
    baseline: Crossing | None
    ratios: dict[str, float | None]  # by axis


@dataclass(frozen=True)
class ScoreRow:
    """Both pass rates at one value of an axis, and their difference as of independent samples."""

    at: str
    run: Value
    baseline: Value

    @property
    def difference(self) -> Value:
        """The run's score less the baseline's, with its interval."""
        (a, of_a, here), (b, of_b, there) = self.run, self.baseline
        return Value(a - b, difference(a, of_a, b, of_b), here and there)


@dataclass(frozen=True)
class Comparison:
    levels: list[LevelRow]
    scores: list[ScoreRow]
    differing_settings: list[str]  # `field: run's value, baseline's value`


def first_crossing(points: Sequence[CurvePoint], target: float) -> Crossing | None:
    """Where the curve first reaches `target`, or None where it never does."""
    before: CurvePoint | None = None
    for point in points:
        if point.pass_rate >= target:
            share = 1.0 if before is None else (target - before.pass_rate) / (point.pass_rate - before.pass_rate)
            step, updates, tokens = (between(before or point, point, share, axis) for axis in AXES)
            return Crossing(step, updates, tokens, (before or point).step, point.step)
        before = point
    return None


def between(a: CurvePoint, b: CurvePoint, share: float, name: str) -> float:
    """A figure `share` of the way from one point to the next."""
    return getattr(a, name) + share * (getattr(b, name) - getattr(a, name))


def value_at(points: Sequence[CurvePoint], axis: str, at: float) -> Value | None:
    """The pass rate at a value of an axis, interpolated between snapshots; None outside the curve."""
    for a, b in zip(points, points[1:], strict=False):
        low, high = getattr(a, axis), getattr(b, axis)
        if low <= at <= high and high > low:
            share = (at - low) / (high - low)
            ends = zip(a.interval, b.interval, strict=True)
            interval = Interval(*(x + share * (y - x) for x, y in ends))
            return Value(between(a, b, share, "pass_rate"), interval, share in (0.0, 1.0))
    return None


def compare(run: RunData, baseline: RunData) -> Comparison:
    """Compare a run with a baseline.

    Raises:
        DataError: their pass rates cannot be compared, as they were measured differently.
    """
    check_comparable(run, baseline)
    targets = sorted({run.config.evaluation.target, *worth_asking(run.points, baseline.points)})
    return Comparison(
        [level_row(run, baseline, target) for target in targets],
        score_rows(run, baseline),
        differing_settings(run, baseline),
    )


def check_comparable(run: RunData, baseline: RunData) -> None:
    """Held-out problems, samples a problem and completion length decide what a pass rate means."""
    if run.protocol == baseline.protocol:
        return
    mine, theirs = settings(run), settings(baseline)
    for name in mine.keys() | theirs.keys():
        decides = name.startswith("problems.") or name in ("evaluation.samples", "training.max_completion_tokens")
        if decides and mine.get(name) != theirs.get(name):
            raise DataError(
                f"The pass rates of the two runs cannot be compared: {name} is {mine.get(name)!r} here and "
                f"{theirs.get(name)!r} in the baseline; give a baseline with the same {name}."
            )


def worth_asking(run: Sequence[CurvePoint], baseline: Sequence[CurvePoint]) -> list[float]:
    """The round levels that lie above both starts and that at least one of the two reaches."""
    if not run or not baseline:
        return []
    start = max(run[0].pass_rate, baseline[0].pass_rate)
    top = max(point.pass_rate for point in [*run, *baseline])
    return [level for level in LEVELS if start < level <= top]


def level_row(run: RunData, baseline: RunData, target: float) -> LevelRow:
    """Where run and baseline first reach a pass rate, and the ratios of what it took."""
    ours, theirs = first_crossing(run.points, target), first_crossing(baseline.points, target)
    ratios = {
        axis: getattr(theirs, axis) / getattr(ours, axis) if ours and theirs and getattr(ours, axis) else None
        for axis in AXES
    }
    return LevelRow(target, ours, theirs, ratios)


def score_rows(run: RunData, baseline: RunData) -> list[ScoreRow]:
    """Both at the last step, at the most updates and at the most tokens that both have."""
    if not run.points or not baseline.points:
        return []
    rows = []
    for axis, words in zip(AXES, AT, strict=True):
        at = min(getattr(run.points[-1], axis), getattr(baseline.points[-1], axis))
        ours, theirs = value_at(run.points, axis, at), value_at(baseline.points, axis, at)
        if ours and theirs:
            rows.append(ScoreRow(words.format(at), ours, theirs))
    return rows


def differing_settings(run: RunData, baseline: RunData) -> list[str]:
    """Settings in which the runs differ; name, machine, and what one of them does not use are left out."""
    unused = {"name", "execution", "tracking"} | METHOD_SETTINGS - (method_settings(run) & method_settings(baseline))
    mine, theirs = settings(run), settings(baseline)
    return [
        f"{name}: {mine.get(name)!r}, baseline {theirs.get(name)!r}"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name) and name.partition(".")[0] not in unused
    ]


def method_settings(run: RunData) -> set[str]:
    """The parts of the configuration that a run uses beyond those of plain GRPO."""
    used = {"injection", "guidance"} if run.kind != GRPO else set()
    used |= {"auto"} if run.kind == AUTO_NPO else set()
    return used | ({"bootstrap"} if run.bootstrapped else set())


def settings(run: RunData) -> dict[str, object]:
    """The run's configuration with dotted names."""
    return flatten(run.config.model_dump(mode="json"))


def flatten(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one, by dotted names."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and value  # no fields in it: a value like others
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def levels_table(comparison: Comparison) -> Table:
    """What it took both to reach pass rates."""
    header = ["pass rate", "steps", "baseline", "all updates", "baseline", "ratio", "all tokens", "baseline", "ratio"]
    note = (
        f"First crossing; {INTERPOLATED} marks what is interpolated between evaluated snapshots. All updates and "
        "generated tokens count abandoned branches, probes and guidance; a ratio above 1 means that the baseline "
        "needed more."
    )
    return Table("To reach a pass rate", header, [level_cells(row) for row in comparison.levels], note)


def level_cells(row: LevelRow) -> list[str]:
    """The cells of a level: the target, both crossings, the ratios."""
    cells = [f"{row.target:.2f}"]
    for axis in AXES:
        cells += [crossed(row.run, axis), crossed(row.baseline, axis)]
        if axis != "step":
            measured = all(crossing is None or crossing.measured for crossing in (row.run, row.baseline))
            mark = "" if measured or row.ratios[axis] is None else INTERPOLATED
            cells.append(mark + number(row.ratios[axis], 2))
    return cells


def crossed(crossing: Crossing | None, axis: str) -> str:
    """Where a level is first reached."""
    if crossing is None:
        return "not reached"
    return ("" if crossing.measured else INTERPOLATED) + number(getattr(crossing, axis))


def crossed_at(crossing: Crossing | None) -> str:
    """At which step a level is first reached, as far as snapshots were evaluated."""
    if crossing is None:
        return "not reached"
    if crossing.measured:
        return f"at step {crossing.before}"
    return f"between steps {crossing.after} and {crossing.before} (about {crossing.step:.0f})"


def rate(value: Value, sign: str = "") -> str:
    """A pass rate, or a difference of two, with its interval; marked where it is interpolated."""
    return shown(value.pass_rate, value.interval, sign, "" if value.measured else INTERPOLATED)


def scores_table(comparison: Comparison) -> Table:
    """Pass rates of both at the same step, updates and tokens."""
    rows = [[row.at, rate(row.run), rate(row.baseline), rate(row.difference, "+")] for row in comparison.scores]
    note = (
        f"{LABEL}, not over seeds: one pair of runs shows no more than that. {INTERPOLATED} marks what is interpolated "
        "between evaluated snapshots."
    )
    return Table("Held-out pass rate at equal cost", ["at", "this run", "baseline", "difference"], rows, note)
