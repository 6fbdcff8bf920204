"""What there is to tell of a run: a row an update, scores of snapshots, and events; all of it from the workspace."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from npo_core.reporting.records import Stage, Workspace, read_decisions, read_stages
from npo_core.timeline.segments import Mark, read_parts
from npo_core.tracking.ledger import Ledger, Part

HEADLINE = ("step", "reward", "pass_rate", "entropy_on_policy", "groups_injected", "groups_rescued", "tokens_generated")
ENDS = {  # why a segment ended earlier than it was to
    "warning": "a plateau warning ended a segment",
    "tokens": "the tokens allowed are used up",
    "rescued": "a rescue is over",
}
Level = Literal["info", "warn", "error"]
ORDER = (*ENDS, "decision", "answer", "rollback", "outcome", "score")  # of events of one update
INFO: Level = "info"
WARN: Level = "warn"


@dataclass(frozen=True)
class Event:
    """Something to be seen at an update: a rollback, a decision, a warning, a stop; or, with `values`, a score."""

    key: str  # tells it from all others
    update: int
    kind: str
    title: str
    text: str = ""
    level: Level = "info"
    values: dict[str, float] = field(default_factory=dict)


def with_new_parts(workspace: Workspace, ledger: Ledger) -> Ledger:
    """The ledger with the parts that were committed since, in the order of their stages, then of their steps."""
    reached: dict[str, int] = {}
    for part in ledger.parts:
        reached[part.segment] = max(part.t1, reached.get(part.segment, 0))
    new: list[Part] = []
    for stage in read_stages(workspace):
        if stage.name == "train":
            new += new_parts(workspace, stage, reached.get(stage.fingerprint))
    return ledger.model_copy(update={"parts": [*ledger.parts, *new]}) if new else ledger


def new_parts(workspace: Workspace, stage: Stage, reached: int | None) -> Iterator[Part]:
    """The parts of a stage's segment after the step that is known."""
    folder = f"segments/{stage.fingerprint}"
    names = [name for name in workspace.store.list(folder) if name.startswith("mark-")]
    steps = {int(name.removeprefix("mark-").removesuffix(".json")): name for name in names}
    if not any(step > (reached or 0) for step in steps):
        return
    if reached is None:
        record = workspace.store.read_json(f"{folder}/segment.json", default=None)
        reached = record["t0"] if record else workspace.timeline.snapshots.get(stage.spec["start"]).step
    for step in sorted(step for step in steps if step > reached):
        mark = Mark(**workspace.store.read_json(f"{folder}/{steps[step]}"))
        yield Part(
            segment=stage.fingerprint,
            branch=stage.spec["branch"],
            t0=reached,
            t1=step,
            snapshot=mark.snapshot,
            ended=mark.ended,
        )
        reached = step


def rows(workspace: Workspace, ledger: Ledger, after: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Each update after `after`, counted over all parts, with its figures under the branch's name, and under `all`."""
    for before, part in ledger.starts():
        if before + part.t1 - part.t0 <= after:
            continue
        for row in read_parts(workspace.store, part.segment, "steps", [part.t1]).to_pylist():
            update = before + row["step"] - part.t0
            if update > after:
                yield update, named(part.branch, row)


def named(branch: str, row: dict[str, Any]) -> dict[str, float]:
    """The figures of an update by name; what it has none of is left out."""
    known = {name: float(v) for name, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}
    of_all = {f"all/{name}": known[name] for name in HEADLINE if name in known}
    return {f"{branch}/{name}": value for name, value in known.items() if name != "step"} | of_all


def events(workspace: Workspace, ledger: Ledger, known: Collection[str] = ()) -> list[Event]:
    """Everything that happened so far besides updates, by update; scores with `known` keys are not read again."""
    found = [*ends(ledger), *branches(workspace, ledger), *decisions(workspace, ledger)]
    found += scores(workspace, ledger, known)
    return sorted(found, key=lambda event: (event.update, ORDER.index(event.kind), event.key))


def ends(ledger: Ledger) -> Iterator[Event]:
    """Warnings, and other reasons for which segments ended early."""
    for before, part in ledger.starts():
        if part.ended in ENDS:
            yield Event(
                f"end/{part.segment}/{part.t1}",
                before + part.t1 - part.t0,
                part.ended,
                f"{ENDS[part.ended]}: {part.branch} at step {part.t1}",
                level="warn" if part.ended == "warning" else "info",
            )


def branches(workspace: Workspace, ledger: Ledger) -> Iterator[Event]:
    """Rollbacks: branches that leave an older snapshot. One is told where its first update is, or comes."""
    for branch in workspace.timeline.branches():
        if branch.order > 0:
            first = next((before for before, part in ledger.starts() if part.branch == branch.name), ledger.updates)
            guided = f"guidance cache {branch.cache}" if branch.cache else "no guidance"
            text = f"{branch.reason}; from snapshot {branch.parent}, {guided}"
            title = f"rollback to step {branch.parent_step}: branch {branch.name}"
            yield Event(f"branch/{branch.name}", first, "rollback", title, text, "warn")


def decisions(workspace: Workspace, ledger: Ledger) -> Iterator[Event]:
    """What was decided after warnings, what people answered, and what came of it."""
    for decision in read_decisions(workspace):
        at = ledger.update_of(decision["snapshot"]) if "snapshot" in decision else None
        update, key = ledger.updates if at is None else at, f"decision/{decision['number']:04d}"
        word, name = "intervene" if decision["intervene"] else "go on", f"decision {decision['number']}"
        title, level = f"{name} at step {decision['step']}: {word}", WARN if decision["intervene"] else INFO
        yield Event(key, update, "decision", title, decision["reason"], level)
        if approval := decision.get("approval"):
            yield Event(f"{key}/answer", update, "answer", f"{name}: {approval['answer']}")
        if result := decision.get("outcome"):
            of = [before + p.t1 - p.t0 for before, p in ledger.starts() if p.branch == result["replay"]["branch"]]
            last = max(of, default=ledger.updates)
            yield Event(f"{key}/outcome", last, "outcome", f"outcome of {name}", brought(result))


def brought(result: Mapping[str, Any]) -> str:
    """What an intervention brought, by its record."""
    parts = [
        f"{result[name]} {name.replace('_', ' ')}" for name in ("groups_injected", "groups_rescued") if name in result
    ]
    if result.get("difference") is not None:
        parts.insert(0, f"pass rate {result['difference']:+.3f} against the branch it left")
    return ", ".join(parts)


def scores(workspace: Workspace, ledger: Ledger, known: Collection[str]) -> Iterator[Event]:
    """Held-out pass rates of snapshots; the base's at update 0."""
    store = workspace.store
    for protocol in store.list("evaluations"):
        for name in store.list(f"evaluations/{protocol}"):
            snapshot = name.removesuffix(".json")
            key = f"score/{protocol}/{snapshot}"
            if key in known:
                continue
            score = store.read_json(f"evaluations/{protocol}/{name}")
            update = 0 if score["step"] == 0 else ledger.update_of(snapshot)
            if update is not None:
                values = {"evaluation/pass_rate": score["pass_rate"], "evaluation/step": float(score["step"])}
                yield Event(key, update, "score", "", values=values)
