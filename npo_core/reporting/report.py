"""The report of a run: report.md, report.json and two pictures in `report/`; equal workspaces give equal bytes."""

from dataclasses import asdict
from typing import Any

from npo_core.reporting.compare import Comparison, compare, first_crossing, flatten
from npo_core.reporting.completions import completions_table
from npo_core.reporting.course import name_of, reproduce, what_ran
from npo_core.reporting.curves import curves
from npo_core.reporting.evaluation import benchmarks_table, evaluations_table
from npo_core.reporting.intervals import shown
from npo_core.reporting.plots import training
from npo_core.reporting.problems import problems_table
from npo_core.reporting.records import Workspace
from npo_core.reporting.roles import AUTO_NPO, GRPO
from npo_core.reporting.run_data import RunData, load
from npo_core.reporting.tables import (
    Table,
    costs_table,
    decisions_table,
    groups_table,
    guidance_table,
    in_words,
    levels_table,
    markdown,
    number,
    rate,
    scores_table,
)
from npo_core.reporting.verification import verification_table
from npo_core.timeline import json_bytes

FOLDER = "report"
KEY_SETTINGS = (
    "seed",
    "problems.kind",
    "problems.train.path",
    "problems.held_out.path",
    "problems.held_out_rows",
    "problems.difficulties",
    "model.kind",
    "model.path",
    "training.steps",
    "training.prompts_per_step",
    "training.group_size",
    "training.updates_per_batch",
    "training.learning_rate",
    "training.loss",
    "training.max_completion_tokens",
    "evaluation.samples",
)
BOOTSTRAP_SETTINGS = (
    "bootstrap.scout_steps",
    "bootstrap.ladder",
    "bootstrap.guided",
    "bootstrap.fresh_randomness",
)
GUIDED_SETTINGS = (
    "injection.tau_gate",
    "injection.importance_sampling",
    "injection.baseline",
    "guidance.samples",
    "guidance.keep",
    "guidance.skip_passed",
)


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
    write = workspace.store.write_bytes
    write(f"{FOLDER}/curves.png", curves(run, other, names))
    write(f"{FOLDER}/training.png", training(run, other, names))
    write(f"{FOLDER}/report.json", json_bytes(found))
    write(f"{FOLDER}/report.md", text(run, other, comparison).encode())
    return found


def figures(run: RunData, baseline: RunData | None, comparison: Comparison | None) -> dict[str, Any]:
    """All figures, as plain values."""
    return {
        **run_figures(run),
        "baseline": run_figures(baseline) if baseline is not None else None,
        "comparison": comparison_figures(comparison) if comparison is not None else None,
    }


def run_figures(run: RunData) -> dict[str, Any]:
    target = first_crossing(run.points, run.config.evaluation.target)
    return {
        "name": run.config.name,
        "kind": run.kind,
        "complete": run.complete,
        "branch": run.branch,
        "steps_done": run.steps_done,
        "guided_until": run.guided_until,
        "spent_before": asdict(run.spent),
        "updates_total": run.total[0],
        "tokens_total": run.total[1],
        "points": [asdict(point) for point in run.points],
        "abandoned": [
            {"branch": piece.branch, "points": [asdict(point) for point in piece.points]} for piece in run.abandoned
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
    scores = [
        {"at": row.at} | {name: getattr(row, name)._asdict() for name in ("run", "baseline", "difference")}
        for row in comparison.scores
    ]
    return {
        "levels": [asdict(row) for row in comparison.levels],
        "scores": scores,
        "differing_settings": comparison.differing_settings,
    }


def text(run: RunData, baseline: RunData | None, comparison: Comparison | None) -> str:
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
        *(section(groups_table(run)) if run.courses else ["No step has been committed yet."]),
        *(section(told) if (told := completions_table(run)) else []),
        *(section(unverified) if (unverified := verification_table(run)) else []),
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
    return [f"### {table.title}", markdown(table)]


def headline(run: RunData) -> str:
    """The result in one sentence."""
    done = f"{run.steps_done} of {run.config.training.steps} steps are done."
    if not run.points:
        return f"Nothing is evaluated yet; {done}"
    last, target = run.points[-1], run.config.evaluation.target
    crossing = first_crossing(run.points, target)
    reached = f"it first reaches {target:g} {in_words(crossing)}" if crossing else f"it never reaches {target:g}"
    sentence = (
        f"Held-out pass rate **{shown(last.pass_rate, last.interval)}** (95 % interval) after step {last.step} "
        f"({number(last.updates_total)} updates and {number(last.tokens_total)} generated tokens in all); "
        f"{reached}."
    )
    return sentence if run.complete else f"{sentence} The run is unfinished: {done}"


def against(comparison: Comparison) -> list[str]:
    """The comparison in one sentence."""
    if not comparison.scores:
        return ["The baseline, or this run, has no evaluated curve to compare yet."]
    told = [f"{rate(row.difference, '+')} at {row.at}" for row in comparison.scores]
    return [f"Against the baseline, with 95 % intervals: {'; '.join(told)}."]


def settings_table(run: RunData) -> Table:
    """The settings that say what was run, and all others that are not at their default."""
    values = flatten(run.config.model_dump(mode="json"))
    defaults = flatten(type(run.config)().model_dump(mode="json"))
    wanted = KEY_SETTINGS + (BOOTSTRAP_SETTINGS if run.bootstrapped else ())
    wanted += GUIDED_SETTINGS if run.kind != GRPO else ()
    wanted += tuple(name for name in values if run.kind == AUTO_NPO and name.startswith("auto."))
    changed = [name for name in values if values[name] != defaults.get(name) and name not in wanted and name != "name"]
    rows = [[f"`{name}`", show(values[name])] for name in [*wanted, *changed] if name in values]
    return Table("Settings", ["setting", "value"], rows, "All settings are in config.json, explained by `npo config`.")


def show(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
