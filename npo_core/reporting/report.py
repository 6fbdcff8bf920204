"""The report of a run: report.md, report.json and pictures in `report/`; equal workspaces give equal bytes."""

from dataclasses import asdict
from typing import Any

from npo_core.reporting.compare import (
    Comparison,
    Crossing,
    LevelRow,
    ScoreRow,
    Value,
    compare,
    crossed_at,
    first_crossing,
    levels_table,
    scores_table,
)
from npo_core.reporting.completions import completions_table
from npo_core.reporting.costs import StageCost
from npo_core.reporting.curves import curves
from npo_core.reporting.evaluation import benchmarks_table, evaluations_table
from npo_core.reporting.heat import Visits, heat_png, read_visits, told
from npo_core.reporting.intervals import LABEL, Interval, of_score, shown
from npo_core.reporting.mixed import mixed_table
from npo_core.reporting.narrative import against, headline, name_of, reproduce, settings_table, what_ran
from npo_core.reporting.plots import training
from npo_core.reporting.records import Workspace
from npo_core.reporting.run_data import RunData, load
from npo_core.reporting.segment import groups_table, verification_table
from npo_core.reporting.tables import (
    NONE,
    Table,
    costs_table,
    decisions_table,
    guidance_table,
    markdown,
    number,
    problems_table,
)
from npo_core.timeline import json_bytes, origin

FOLDER, PROMPTS_PICTURE = "report", "prompts.png"


def write_report(workspace: Workspace, baseline: Workspace | None = None) -> dict[str, Any]:
    """Write the report into the workspace and return its figures, the content of report.json.

    Raises:
        DataError: one of the two holds no run, or their pass rates cannot be compared.
        DamagedError: a record or table is damaged.
    """
    run, other = load(workspace), load(baseline) if baseline is not None else None
    comparison = compare(run, other) if other is not None else None
    found = figures(run, other, comparison)
    names = (name_of(run), f"baseline: {name_of(other)}" if other is not None else "")
    visits, write = read_visits(workspace.store, run.path), workspace.store.write_bytes
    write(f"{FOLDER}/curves.png", curves(run, other, names))
    write(f"{FOLDER}/training.png", training(run, other, names))
    if visits.by_prompt:
        write(f"{FOLDER}/{PROMPTS_PICTURE}", heat_png(visits))
    write(f"{FOLDER}/report.json", json_bytes(found))
    write(f"{FOLDER}/report.md", text(run, other, comparison, visits).encode())
    return found


def figures(run: RunData, baseline: RunData | None, comparison: Comparison | None) -> dict[str, Any]:
    """All figures, as plain values."""
    return {
        **run_figures(run),
        "baseline": run_figures(baseline) if baseline is not None else None,
        "comparison": comparison_figures(comparison) if comparison is not None else None,
    }


def run_figures(run: RunData) -> dict[str, Any]:
    """The figures of a run for report.json."""
    target = first_crossing(run.points, run.config.evaluation.target)
    return {
        "name": run.config.name,
        "kind": run.kind,
        "complete": run.complete,
        "branch": run.branch,
        "forked": None if run.forked is None else origin(run.forked),
        "steps_done": run.steps_done,
        "guided_until": run.guided_until,
        "spent_before": asdict(run.spent),
        "updates_total": run.total[0],
        "tokens_total": run.total[1],
        "points": [asdict(point) for point in run.points],
        "abandoned": [
            {"branch": old.branch, "points": [asdict(point) for point in old.points]} for old in run.abandoned
        ],
        "rollbacks": [asdict(rollback) for rollback in run.rollbacks],
        "final": asdict(run.points[-1]) if run.points else None,
        "target": {"pass_rate": run.config.evaluation.target, "reached": asdict(target) if target else None},
        "evaluations": run.evaluations,
        "protocol": run.protocol,
        "guidance": run.guidance,
        "problems": run.problems,
        "decisions": run.decisions,
        "stages": [asdict(stage) for stage in run.stages],
        "versions": run.versions,
        "config": run.config.model_dump(mode="json"),
    }


def comparison_figures(comparison: Comparison) -> dict[str, Any]:
    """The figures of a comparison for report.json."""
    scores = [
        {"at": row.at} | {name: getattr(row, name)._asdict() for name in ("run", "baseline", "difference")}
        for row in comparison.scores
    ]
    return {
        "levels": [asdict(row) for row in comparison.levels],
        "scores": scores,
        "differing_settings": comparison.differing_settings,
    }


def text(run: RunData, baseline: RunData | None, comparison: Comparison | None, visits: Visits | None = None) -> str:
    """report.md."""
    parts = [
        f"# {run.config.name}: {name_of(run)}",
        headline(run),
        *(against(comparison) if comparison else []),
        what_ran(run),
        "![Held-out pass rate by step, by all updates and by all generated tokens](curves.png)",
        CURVES_NOTE,
        *(beside(comparison) if comparison and comparison.scores else []),
        *(section(decisions_table(run.decisions)) if run.decisions else []),
        "## Training",
        "![Pass rate, entropy, dead groups and injection by step](training.png)",
        *([TRAINING_NOTE] if run.rollbacks else []),
        *(section(groups_table(run)) if run.segments else ["No step has been committed yet."]),
        *(section(mixed) if (mixed := mixed_table(run)) else []),
        *(section(told) if (told := completions_table(run)) else []),
        *(section(unverified) if (unverified := verification_table(run)) else []),
        *(again(visits) if visits and visits.by_prompt else []),
        *(section(guidance_table(run.guidance)) if run.guidance else []),
        *(section(evaluations_table(run)) if run.points else []),
        *(section(further) if (further := benchmarks_table(run)) else []),
        *(section(problems_table(run.problems)) if run.problems else []),
        *section(costs_table(run.stages)),
        *(section(costs_table(baseline.stages, "Cost of each stage of the baseline")) if baseline else []),
        *section(settings_table(run)),
        *reproduce(run, baseline),
    ]
    return "\n\n".join(parts) + "\n"


def again(visits: Visits) -> list[str]:
    """What became of prompts that came more than once."""
    return [
        "### Prompts that came again",
        told(visits),
        f"![Pass rate of prompts by step; crosses were forgotten, rings rescued]({PROMPTS_PICTURE})",
    ]


def beside(comparison: Comparison) -> list[str]:
    """The tables that compare, and a caution where more than the method differs."""
    tables = [*section(scores_table(comparison)), *section(levels_table(comparison))]
    lines = [f"* `{line}`" for line in comparison.differing_settings]
    caution = (
        "\n".join(["Settings that differ between the two runs:", "", *lines])
        if lines
        else "Both runs have the same settings, apart from the method."
    )
    return ["## Beside the baseline", *tables, caution]


CURVES_NOTE = (
    "Bands are 95 % intervals over the held-out problems. All updates and tokens count everything spent up to a "
    "snapshot: training, that of abandoned branches too, probes, and the generation of guidance; evaluations are left "
    "out. Where the run was rolled back, its curve stands still while the abandoned training is paid."
)
TRAINING_NOTE = "A dotted line is where an intervention happened; its guided replay is shaded."


def section(table: Table) -> list[str]:
    """A table under its title, as Markdown."""
    return [f"### {table.title}", markdown(table)]


def report_tables(figures: dict[str, Any]) -> list[Table]:
    """The tables of a report that a terminal shows, from the content of report.json."""
    tables = [result_table(figures)]
    if figures["comparison"]:
        levels = [
            LevelRow(row["target"], crossing(row["run"]), crossing(row["baseline"]), row["ratios"])
            for row in figures["comparison"]["levels"]
        ]
        rows = figures["comparison"]["scores"]
        scores = [ScoreRow(row["at"], value(row["run"]), value(row["baseline"])) for row in rows]
        comparison = Comparison(levels, scores, figures["comparison"]["differing_settings"])
        tables += [scores_table(comparison), levels_table(comparison)]
    if figures["decisions"]:
        tables.append(decisions_table(figures["decisions"]))
    return [*tables, costs_table([StageCost(**cost) for cost in figures["stages"]])]


def crossing(values: dict[str, Any] | None) -> Crossing | None:
    """A crossing as stored in report.json."""
    return None if values is None else Crossing(**values)


def value(values: dict[str, Any]) -> Value:
    """A pass rate with its interval as stored in report.json."""
    return Value(values["pass_rate"], Interval(*values["interval"]), values["measured"])


def result_table(figures: dict[str, Any]) -> Table:
    """The run in a few figures."""
    final, target = figures["final"], figures["target"]
    score = shown(final["pass_rate"], of_score(final)) if final else "not evaluated yet"
    rows = [
        ["held-out pass rate", score],
        ["after step", number(final["step"]) if final else NONE],
        ["steps done", number(figures["steps_done"])],
        [f"first reaches {target['pass_rate']:g}", crossed_at(crossing(target["reached"]))],
        ["updates in all", number(figures["updates_total"])],
        ["generated tokens in all", number(figures["tokens_total"])],
    ]
    return Table(f"{figures['name']}, {figures['kind']}", ["", "value"], rows, f"{LABEL}.")
