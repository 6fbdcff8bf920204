"""A recorded decision made once more from the records it was made from, and what other thresholds would have decided.

The records are the segments' metrics, the result of the probe stage, and what the decision says was left to spend.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from npo_core.config import Plateau, RunConfig, override, parse_config, parse_plateau
from npo_core.control.breakthrough import plan_rollback
from npo_core.control.decide import decide, unweighed
from npo_core.control.decision import Budget, Decision
from npo_core.control.path import path_rows
from npo_core.control.probe import ProbeResult
from npo_core.control.records import Decisions
from npo_core.control.signals import readings
from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.names import AUTO_NPO, PLATEAU
from npo_core.timeline import Store, Timeline

Changes = Mapping[str, object]  # dotted field -> value
# What may be changed afterwards; everything else decided what was generated, and would need a new run.
CHANGEABLE = {
    AUTO_NPO: (
        "auto.control.trigger.",
        "auto.choice.",
        "auto.rescue.",
        "auto.probe.min_solved",
        "auto.probe.min_prompts",
    ),
    PLATEAU: ("plateau.trigger.", "plateau.rollback_step"),
}

PRICED = re.compile(r"^expected|^choices|\.(rescued|price|per_price|solved)\b")


def recompute(store: Store, config: RunConfig, recorded: Decision, changes: Changes) -> Decision:
    """The decision that the records lead to, with some thresholds changed.

    Raises:
        ConfigError: a change is no threshold of this kind of decision. DamagedError: a record is missing.
    """
    check(changes, recorded.flow)
    timeline = Timeline(store)
    rows, at = path_rows(timeline, recorded.branch, recorded.step), recorded.at
    common: dict[str, Any] = {"number": recorded.number, "branch": recorded.branch}
    if recorded.flow == PLATEAU:
        plateau = changed_plateau(recorded, changes)
        return plan_rollback(plateau, rows, timeline.states(recorded.branch), guide=at, **common)
    return decide(
        changed(config, changes),
        rows,
        read_probe(store, recorded.probe),
        recorded.left,
        flow=recorded.flow,
        at=at,
        probe_id=recorded.probe,
        **common,
    )


def check(changes: Changes, flow: str) -> None:
    """Raises ConfigError where a field decided what was generated, or is unknown."""
    able = CHANGEABLE[flow]
    for name in changes:
        if not name.startswith(able):
            groups = ", ".join(f"{field}*" if field.endswith(".") else field for field in able)
            raise ConfigError(f"{name} is no threshold that a decision of {flow} can be made anew with: give {groups}.")


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """The configuration with other values at dotted names. Raises ConfigError where one does not fit."""
    return parse_config(override(config.model_dump(mode="json"), dict(changes)))


def changed_plateau(recorded: Decision, changes: Changes) -> Plateau:
    """The recorded settings of a breakthrough with other values. Raises ConfigError where one does not fit."""
    return parse_plateau(override({"plateau": dict(recorded.thresholds)}, dict(changes))["plateau"])


def read_probe(store: Store, fingerprint: str | None) -> ProbeResult | None:
    """The estimates that a decision was made from; None where it was made without."""
    if fingerprint is None:
        return None
    rel = f"stages/probe-{fingerprint}/result.json"
    record = store.read_json(rel, default=None)
    if record is None:
        raise DamagedError(f"{store.uri}/{rel} is missing: without the probe its decision cannot be made once more.")
    return ProbeResult.model_validate(record["result"]["probe"])


def differences(recorded: Decision, again: Decision) -> list[dict[str, Any]]:
    """The leaves in which two decisions differ: field, recorded, recomputed.

    A decision of before 0.3 carries no prices; neither they nor the expected cost that follows from them are compared.
    """
    old, new = (dict(leaves(d.model_dump(mode="json"))) for d in (recorded, again))
    priced = "choices" in recorded.model_fields_set or recorded.flow == PLATEAU
    return [
        {"field": name, "recorded": old.get(name), "recomputed": new.get(name)}
        for name in dict.fromkeys([*old, *new])
        if (name in old, old.get(name)) != (name in new, new.get(name)) and (priced or not PRICED.search(name))
    ]


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value that holds no others, by its dotted path; an empty list or group is one."""
    if not isinstance(value, dict | list) or not value:
        yield path, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(inner, f"{path}.{key}" if path else str(key))


def choose_decision(decisions: Decisions, step: int, number: int | None) -> Decision | None:
    """The decision that was recorded at a step; None where nothing was decided there.

    Raises:
        DataError: there are several and no number says which, or none there has that number.
    """
    there = [d for d in decisions.all() if d.step == step]
    known = ", ".join(f"{d.number} ({d.flow} on branch {d.branch})" for d in there) or "none"
    if number is not None and number not in [d.number for d in there]:
        raise DataError(f"There is no decision {number} at step {step}: decisions there are {known}.")
    if number is None and len(there) > 1:
        raise DataError(f"Step {step} has {len(there)} decisions: {known}. Choose one with --number.")
    return next((d for d in there if number in (None, d.number)), None)


def decide_again(store: Store, config: RunConfig, step: int, number: int | None, changes: Changes) -> dict[str, Any]:
    """A decision as it was recorded and as its records lead to it now, in plain values.

    Where nothing was decided: `recorded` is null, and `recomputed` is what the signals of the final branch say.
    """
    decisions = Decisions(store)
    recorded = choose_decision(decisions, step, number)
    if recorded is None:
        check(changes, AUTO_NPO)
        return {"recorded": None, "recomputed": signals_at(store, changed(config, changes), step)}
    again = recompute(store, config, recorded, changes)
    approval, result = decisions.approval(recorded.number), decisions.result(recorded.number)
    differ = differences(recorded, again)
    return {
        "recorded": recorded.model_dump(mode="json"),
        "recomputed": again.model_dump(mode="json"),
        "changes": dict(changes),
        "same": not differ,
        "differences": differ,
        "approval": approval and approval.model_dump(mode="json"),
        "outcome": result and result.model_dump(mode="json"),
    }


def signals_at(store: Store, config: RunConfig, step: int) -> dict[str, Any]:
    """What the signals say at a step of the final branch, where nothing was decided.

    Raises:
        DataError: no update of that step is recorded.
    """
    timeline = Timeline(store)
    final = timeline.final()
    rows = path_rows(timeline, final.name, step) if final else []
    if final is None or not rows or rows[-1]["step"] != step:
        last = f"the newest is {rows[-1]['step']}" if rows else "none is"
        raise DataError(f"No update {step} is recorded in {store.uri}: {last}.")
    seen = readings(rows, config.auto.control.trigger)
    reading = seen[-1] if seen else None
    reason = unweighed(config.auto, reading, None, Budget())
    return {"branch": final.name, "step": step, "reading": reading and reading.as_dict(), "reason": reason}
