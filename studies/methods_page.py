"""Writes what `studies.methods` found: the tables of docs/results.md, docs/results.json and a picture a task."""

import csv
import json
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.arms import BASELINE, BASELINES, OTHERS, REAL, REAL_STEPS
from studies.methods_picture import draw
from studies.paired import (
    COSTS,
    Comparison,
    at_cost,
    at_step,
    compare,
    interval,
    known_costs,
    reached,
    timed,
    with_cost,
)

if TYPE_CHECKING:
    from studies.methods import Point

Arms = dict[str, dict[int, list["Point"]]]
Decisions = dict[str, dict[int, list[dict[str, Any]]]]  # arm -> seed -> what AutoNPO decided
STEPS = (120, 180, 300)  # evaluated updates of an arm's final branch
HEADLINE_STEP = 180  # where GRPO climbs steepest
UNKNOWN = "not recorded"
THRESHOLDS = (0.5, 0.8)
AHEAD, STILL_LEARNS = 60, 0.05  # updates, and what GRPO gains in them where a warning of a plateau was a false alarm
HEADER = ("task", "arm", "seed", "step", "pass_rate", "updates", "flops", "tokens", "seconds")  # of results-points.csv
BEGIN, END = "<!-- begin of what python -m studies.methods generated -->", "<!-- end -->"


def steps_of(task: str) -> tuple[int, ...]:
    """Updates of the final branch after which a task's arms are compared."""
    return (REAL_STEPS // 2, REAL_STEPS) if task == REAL else STEPS


def headline_step(task: str) -> int:
    """The one of them that the answer is given at."""
    return REAL_STEPS if task == REAL else HEADLINE_STEP


def comparisons(task: str, arms: Arms) -> Iterator[tuple[str, str, int, str, Comparison]]:
    """(task, arm, step, baseline, cost) in order, wherever both were run for long enough."""
    for name, found in arms.items():
        if name == BASELINE:
            continue
        for step in steps_of(task):
            for baseline in BASELINES:
                for cost in known_costs(arms, BASELINE):
                    if baseline in arms and baseline != name and (one := compare(found, arms[baseline], cost, step)):
                        yield name, baseline, step, cost, one


def as_json(task: str, arms: Arms) -> list[dict]:
    """The comparisons of a task as records."""
    return [
        {
            "task": task, "arm": name, "at": COSTS[cost], "step": step, "seeds": len(one.seeds), "mean": one.mean,
            "baseline": one.baseline, "against": baseline,
            "difference": [value if value == value else None for value in one.difference],
            "interquartile_mean": one.middle, "probability_of_improvement": one.better,
        }
        for name, baseline, step, cost, one in comparisons(task, arms)
    ]  # fmt: skip


def cell(one: Comparison | None) -> str:
    """A difference with its interval, bold where the interval leaves out 0."""
    if one is None:
        return "beyond the run"
    estimate, low, high = one.difference
    if isnan(low):  # of fewer than three seeds
        return f"{estimate:+.3f}"
    text = f"{estimate:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def heading(costs: dict[str, str]) -> list[str]:
    """The first two lines of a table with a column a kind of cost."""
    return [f"| arm | seeds | pass rate | {' | '.join(costs.values())} |", "|---" * (3 + len(costs)) + "|"]


def table(arms: Arms, baseline: str, step: int) -> str:
    """A line an arm: seeds, pass rate, difference to a baseline at equal cost of each kind."""
    costs = known_costs(arms, BASELINE)
    lines = heading(costs)
    for name, found in arms.items():
        rates = [point.pass_rate for points in found.values() if (point := at_step(points, step))]
        if not rates:
            continue
        same = name == baseline
        cells = [
            ""
            if same
            else cell(compare(found, arms[baseline], cost, step))
            if timed(found, arms[baseline], cost)
            else UNKNOWN
            for cost in costs
        ]
        lines.append(f"| `{name}` | {len(rates)} | {interval(rates)[0]:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hardest(found: dict[int, list["Point"]], arms: Arms, cost: str, step: int) -> tuple[str, Comparison] | None:
    """The baseline that an arm is least ahead of at equal cost of a kind, of those that were run for as long.

    One of fewer than three seeds has no interval, and no say where another has one.
    """
    against = {name: compare(found, arms[name], cost, step) for name in BASELINES if name in arms}
    known = {name: one for name, one in against.items() if one is not None}
    known = {name: one for name, one in known.items() if len(one.seeds) > 2} or known
    return min(known.items(), key=lambda item: item[1].difference[0]) if known else None


def against(one: tuple[str, Comparison] | None) -> str:
    """A cell that names the baseline, too."""
    return cell(None) if one is None else f"{cell(one[1])} to `{one[0]}`"


def answer(arms: Arms, step: int) -> str:
    """A line an arm: differences after so many updates to the strongest group size of GRPO at each kind of cost."""
    costs = known_costs(arms, BASELINE)
    lines = heading(costs)
    for name, found in arms.items():
        rates = [point.pass_rate for points in found.values() if (point := at_step(points, step))]
        if name in BASELINES or not rates:
            continue
        cells = [against(hardest(found, arms, cost, step)) if with_cost(found, cost) else UNKNOWN for cost in costs]
        lines.append(f"| `{name}` | {len(rates)} | {interval(rates)[0]:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def times(arms: Arms) -> str:
    """A line an arm: the median of all updates to each threshold, and how many seeds never reached it."""
    lines = [f"| arm | {' | '.join(f'updates to {rate}' for rate in THRESHOLDS)} |", "|---|" + "---|" * len(THRESHOLDS)]
    for name, found in arms.items():
        cells = [median([reached(points, rate) for points in found.values()]) for rate in THRESHOLDS]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def median(values: list[float | None]) -> str:
    """The median with runs that never got there counted as later than all others."""
    known = sorted(value for value in values if value is not None)
    never = len(values) - len(known)
    middle = (len(values) - 1) // 2
    text = f"{known[middle]:.0f}" if middle < len(known) else "not reached"
    return f"{text} ({never} of {len(values)} never)" if never else text


def order(arms: Arms, step: int) -> str:
    """All arms by their lead over GRPO at the same step of the final branch, beside their lead at equal cost."""
    costs = {"step": "at the same step", **known_costs(arms, BASELINE)}
    leads = {
        name: one
        for name, found in arms.items()
        if name not in BASELINES and (one := compare(found, arms[BASELINE], "step", step))
    }
    lines = heading(costs)
    for name in sorted(leads, key=lambda name: -leads[name].difference[0]):
        cells = [
            cell(compare(arms[name], arms[BASELINE], cost, step))
            if timed(arms[name], arms[BASELINE], cost)
            else UNKNOWN
            for cost in costs
        ]
        lines.append(f"| `{name}` | {len(leads[name].seeds)} | {leads[name].mean:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def decisions_table(decided: Decisions, baseline: dict[int, list["Point"]]) -> str:
    """A line an arm: what AutoNPO decided, a run, what its rollbacks brought, and which warnings were false alarms."""
    head = "| arm | runs | decisions | to do nothing | without a rollback | rollbacks | updates rolled back | brought |"
    lines = [head + " false alarms |", "|---" * 9 + "|"]
    for name, runs in decided.items():
        if not runs:
            continue
        made = [one for run in runs.values() for one in run]
        back = [one for one in made if one["intervene"] and one["delta"] and one["delta"] > 0]
        brought = [one["brought"] for one in back if one["brought"] is not None]
        counts = (
            len(made),
            sum(not one["intervene"] for one in made),
            sum(one["intervene"] for one in made) - len(back),
            len(back),
            sum(one["delta"] for one in back),
        )
        cells = [f"{count / len(runs):.1f}" for count in counts]
        lost = sum(one < 0 for one in brought)
        gained = f"{sum(brought) / len(brought):+.3f}, {lost} of {len(brought)} lost" if brought else ""
        lines.append(f"| `{name}` | {len(runs)} | {' | '.join(cells)} | {gained} | {false_alarms(runs, baseline)} |")
    return "\n".join(lines)


def false_alarms(runs: dict[int, list[dict[str, Any]]], baseline: dict[int, list["Point"]]) -> str:
    """First warnings after which GRPO with the same seed, until then the same run, went on to learn."""
    gains = []
    for seed, made in runs.items():
        if not made:
            continue
        ends = [at_cost(baseline.get(seed, []), "updates", made[0]["step"] + ahead) for ahead in (0, AHEAD)]
        if None not in ends:
            gains.append(ends[1] - ends[0])
    return f"{sum(gain >= STILL_LEARNS for gain in gains)} of {len(gains)}" if gains else ""


def section(arms: Arms, task: str, decided: Decisions | None = None) -> str:
    """The tables of a task in Markdown."""
    headline = headline_step(task)
    parts = [
        f"### Task {task}",
        f"![pass rate by updates, FLOPs and tokens](pictures/study-{task.lower()}.png)",
        f"After {headline} updates, minus the strongest of GRPO's group sizes at each kind of cost:",
        answer(arms, headline),
    ]
    for step in steps_of(task):
        parts.append(f"After {step} updates of the final branch, minus `{BASELINE}` (groups of 8):")
        parts.append(table(arms, BASELINE, step))
    if "grpo-4" in arms:
        parts.append(f"After {headline} updates, minus `grpo-4` (groups of 4, the fair baseline by tokens):")
        parts.append(table(arms, "grpo-4", headline))
    if any(name in OTHERS for name in arms):
        parts.append(
            f"All arms after {headline} updates of the final branch, ordered by their lead over `{BASELINE}` at the "
            "same step of it, as methods are usually published, and their lead at equal cost:"
        )
        parts.append(order(arms, headline))
    if decided and any(decided.values()):
        parts.append(
            "What AutoNPO decided, a run on average. *Brought*: pass rate in training over the last fifth of a replay, "
            f"minus that of the branch it left. *False alarms*: first warnings after which `{BASELINE}` with the same "
            f"seed gained {STILL_LEARNS} or more in {AHEAD} updates:"
        )
        parts.append(decisions_table(decided, arms[BASELINE]))
    parts.append("All updates until a pass rate is reached, median over seeds:")
    parts.append(times(arms))
    return "\n\n".join(parts)


def text(results: dict[str, Arms], before: str = "", decided: dict[str, Decisions] | None = None) -> str:
    """All tables in Markdown; those of `before` stay where a task has no runs here."""
    kept = {part[:1]: part.strip() for part in before.split("### Task ")[1:]}
    new = {
        task: section(arms, task, (decided or {}).get(task)).removeprefix("### Task ")
        for task, arms in results.items()
        if BASELINE in arms
    }
    return "\n\n".join(f"### Task {part}" for _, part in sorted((kept | new).items()))


def keep_points(results: dict[str, Arms], file: Path) -> None:
    """Every evaluated point of these tasks' runs, a line each; those of other tasks stay in the file."""
    old = list(csv.reader(file.read_text().splitlines()))[1:] if file.exists() else []
    rows = [row for row in old if row[0] not in results]
    for task, arms in results.items():
        for name, found in arms.items():
            rows += [
                [task, name, seed, *("" if isnan(value) else f"{value:.10g}" for value in point)]
                for seed, points in sorted(found.items())
                for point in points
            ]
    with file.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows([HEADER, *rows])


def write(results: dict[str, Arms], docs: Path, decided: dict[str, Decisions] | None = None) -> None:
    """Tables into docs/results.md between its marks, records into docs/results.json, points and pictures beside.

    What is there of a task without runs here, which another machine may have, stays.
    """
    ran = {task: arms for task, arms in results.items() if BASELINE in arms and len(arms) > 1}
    file, page = docs / "results.json", docs / "results.md"
    kept = [record for record in json.loads(file.read_text())["comparisons"] if record["task"] not in ran]
    records = kept + [record for task, arms in ran.items() for record in as_json(task, arms)]
    file.write_text(json.dumps({"comparisons": records}, indent=1) + "\n")
    keep_points(ran, docs / "results-points.csv")
    for task, arms in ran.items():
        draw(task, arms, docs / f"pictures/study-{task.lower()}.png")
    before, rest = page.read_text().split(BEGIN)
    old, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{text(ran, old, decided)}\n\n{END}{after}")
