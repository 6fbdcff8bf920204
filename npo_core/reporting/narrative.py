"""What a run is, what it did, and how to do it again, in words."""

import json
import shlex
from os.path import isabs
from pathlib import Path
from typing import Any

from npo_core.config import Mix, Plateau
from npo_core.reporting.compare import Comparison, crossed_at, first_crossing, flatten, rate
from npo_core.reporting.intervals import shown
from npo_core.reporting.mixed import in_words as mixed
from npo_core.reporting.roles import AUTO_NPO, EARLY_BOOTSTRAP, GRPO, PLATEAU, REPLAY, SCOUT
from npo_core.reporting.run_data import Rollback, RunData
from npo_core.reporting.tables import Table, number
from npo_core.timeline import Fork

KEY_SETTINGS = """
    seed problems.kind problems.train.path problems.held_out.path problems.held_out_rows problems.difficulties
    model.kind model.path training.steps training.prompts_per_step training.group_size training.updates_per_batch
    training.learning_rate training.loss training.max_completion_tokens evaluation.samples
""".split()
BOOTSTRAP_SETTINGS = """
    bootstrap.scout_steps bootstrap.ladder bootstrap.guided bootstrap.fresh_randomness
""".split()
GUIDED_SETTINGS = """
    injection.tau_gate injection.importance_sampling injection.baseline guidance.samples guidance.keep
    guidance.skip_passed
""".split()


def name_of(run: RunData) -> str:
    """What a run is, in a few words."""
    parts = []
    if run.forked is not None:
        parts.append(f"fork at step {run.forked.step}")
    elif beginning(run) == AUTO_NPO:
        parts.append("AutoNPO")
    elif run.bootstrapped:
        parts.append("NPO early" if run.config.bootstrap.guided else "replay without guidance")
    if run.kind == PLATEAU:
        parts.append("late" if parts else "NPO late")
    control = bool(run.later) and not any(rollback.guided for rollback in run.later)
    return (" + ".join(parts) or "GRPO") + (" without guide" if control else "")


def what_ran(run: RunData) -> str:
    """What happened, in words."""
    end = run.steps_done if run.complete else run.config.training.steps
    seed = f"Seed {run.config.seed}."
    if run.forked is not None:
        return forked(run, run.forked, f"up to step {end}. {seed}")
    if run.kind == GRPO and run.config.mix == Mix():
        return f"Plain GRPO from the base model to step {end}. {seed}"
    if run.kind == GRPO:
        return f"GRPO from the base model to step {end}. {mixed(run)} {seed}"
    told = [bootstrap(run) if run.bootstrapped else "The run began as plain GRPO from the base model."]
    if run.kind == AUTO_NPO:
        told.append(watched(run))
    told += [in_words(rollback) for rollback in run.later]
    if any(rollback.guided for rollback in run.later):
        told.append(f"In a guided replay {injection(run)}.")
    return " ".join([*told, f"Otherwise it is plain GRPO, up to step {end}.", seed])


def forked(run: RunData, fork: Fork, end: str) -> str:
    """What a fork shares, how it went on, and what counts as spent."""
    told = [fork.in_words(), "Up to there it is the path of that run, whose updates and tokens count as spent here."]
    guided = [leg.until for leg in fork.onward(run.config.training.steps) if leg.cache]
    if guided:
        told.append(f"As that run was, it was guided up to step {guided[-1]}: {injection(run)}.")
    told += [in_words(rollback) for rollback in run.later]
    return " ".join([*told, f"Otherwise it is GRPO, {end}"])


def bootstrap(run: RunData) -> str:
    """What early bootstrapping did, in sentences."""
    plan = run.config.bootstrap
    end, steps = run.config.scout_steps, run.config.guide_steps
    ran = f"A scout ran {end} steps of plain GRPO ahead from the base model"
    if not plan.guided:
        return f"{ran}; then the run started again from the base, without guidance: a control."
    snapshots = "snapshot of step " if len(steps) == 1 else "snapshots of steps "
    return (
        f"{ran}. Its {snapshots}{', '.join(map(str, steps))} answered the prompts of that segment offline, "
        f"and verified answers were cached. The run then started again from the base: up to step {end} "
        f"{injection(run)}."
    )


def injection(run: RunData) -> str:
    """How cached answers entered groups, in words."""
    how = run.config.injection
    which = {
        "pass_rate": f"a group whose pass rate was below {how.tau_gate:g}",
        "dead": "a group without a right answer",
        "every": "every group",
    }[how.gate]
    where = {
        "last": "the cached answer in its last slot",
        "random_wrong": "the cached answer in the slot of a wrong one",
        "append": f"{'the' if how.slots == 1 else how.slots} cached answer{'s' * (how.slots > 1)} beside its own",
    }[how.place]
    return f"{which} got {where}"


def watched(run: RunData) -> str:
    """How often AutoNPO looked closer, and how often it acted."""
    stays = [made["outcome"] for made in run.decisions if made.get("outcome") and made["outcome"]["abandoned"] is None]
    acted, asked = len(run.later) + len(stays), len(run.decisions)
    told = (
        f"AutoNPO watched pass rate and entropy: {asked} decision{'' if asked == 1 else 's'}, "
        f"{acted} intervention{'' if acted == 1 else 's'}."
    )
    return " ".join([told, *(stayed(outcome) for outcome in stays)])


def stayed(outcome: dict[str, Any]) -> str:
    """One intervention without a rollback, from its outcome."""
    return (
        f"It stayed on branch {outcome['replay']['branch']} and met its failures again from step {outcome['t0']} to "
        f"step {outcome['t1']}, where {outcome['groups_rescued']} groups that were all wrong got a trajectory."
    )


def in_words(rollback: Rollback) -> str:
    """One intervention."""
    back = f"went back from step {rollback.source} to step {rollback.step} (branch {rollback.branch})"
    if not rollback.guided:
        return f"It {back} and trained on without guidance: a control."
    return f"It {back}, guided by verified answers of the policy of step {rollback.source}."


def headline(run: RunData) -> str:
    """The result in one sentence."""
    done = f"{run.steps_done} of {run.config.training.steps} steps are done."
    if not run.points:
        return f"Nothing is evaluated yet; {done}"
    last, target = run.points[-1], run.config.evaluation.target
    crossing = first_crossing(run.points, target)
    reached = f"it first reaches {target:g} {crossed_at(crossing)}" if crossing else f"it never reaches {target:g}"
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
    wanted = KEY_SETTINGS + (BOOTSTRAP_SETTINGS if run.bootstrapped else [])
    wanted += GUIDED_SETTINGS if run.kind != GRPO else []
    wanted += [name for name in values if run.kind == AUTO_NPO and name.startswith("auto.")]
    changed = [name for name in values if values[name] != defaults.get(name) and name not in wanted and name != "name"]
    rows = [[f"`{name}`", show(values[name])] for name in [*wanted, *changed] if name in values]
    return Table("Settings", ["setting", "value"], rows, "All settings are in config.json, explained by `npo config`.")


def show(value: object) -> str:
    """A value in a sentence."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def reproduce(run: RunData, baseline: RunData | None) -> list[str]:
    """The commands that make this report anew."""
    words = ["WORKSPACE is the folder or URI that holds this report's folder."]
    code = commands(run, "WORKSPACE", "NEW_WORKSPACE")
    if run.folder is not None and (paths := relative_paths(run)):
        words.append(f"Start it in {run.folder}, from which its relative paths count ({', '.join(paths)}).")
        code.insert(0, f"cd {shlex.quote(run.folder)}")
    if baseline is not None:
        words.append("BASELINE is the baseline's workspace.")
        code += commands(baseline, "BASELINE", "NEW_BASELINE")
        code.append("npo report NEW_WORKSPACE --baseline NEW_BASELINE")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
    made = f"\n\nMade with {versions}." if versions else ""
    return ["## To reproduce", " ".join(words), "\n".join(["```", *code, "```"]) + made]


def relative_paths(run: RunData) -> list[str]:
    """The folders and files of a configuration that are found from where it was started alone."""
    sources = getattr(run.config.problems, "sources", {})
    named = [getattr(run.config.model, "path", None), *(source.path for source in sources.values())]
    return [] if run.folder is None else [p for p in named if p and not isabs(p) and Path(run.folder, p).exists()]


def commands(run: RunData, old: str, new: str) -> list[str]:
    """What was run: the flow that began it, and every plateau breakthrough on it."""
    begin, config = f"--config {old}/config.json --workspace {new}", flatten(Plateau().model_dump(mode="json"))
    plans = [d["thresholds"] for d in run.decisions if d["flow"] == PLATEAU and d["intervene"]]
    given = [{name: flatten(plan)[name] for name in config if flatten(plan)[name] != config[name]} for plan in plans]
    late = [" ".join(f"--set plateau.{name}={value}" for name, value in plan.items()) for plan in given]
    tails = [f"npo run {PLATEAU} --workspace {new} {words}".rstrip() for words in late]
    if run.forked is not None:
        changed = " ".join(f"--set {shlex.quote(f'{k}={json.dumps(v)}')}" for k, v in run.forked.changes.items())
        place = f"{shlex.quote(run.forked.workspace)} --at {run.forked.step} --branch {run.forked.branch}"
        return [f"npo fork {place} {changed}".rstrip() + f" --workspace {new}", *tails]
    return [f"npo run {beginning(run)} {begin}", *tails]


def beginning(run: RunData) -> str:
    """The flow that trained before any plateau breakthrough."""
    branches = {segment.branch for segment in run.segments}
    decided = any(made["flow"] == AUTO_NPO for made in run.decisions)
    if run.kind == AUTO_NPO or decided or any(map(REPLAY.match, branches)):
        return AUTO_NPO
    return EARLY_BOOTSTRAP if SCOUT in branches else GRPO
