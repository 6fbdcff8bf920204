"""Making a decision from what was recorded, and making it once more from the records."""

from collections.abc import Mapping, Sequence
from typing import Any

from npo_core.config import AutoNPO, RunConfig, Trigger
from npo_core.control.choice import Chosen, choose
from npo_core.control.decision import Budget, Decision, rollback_of
from npo_core.control.prices import Prices
from npo_core.control.probe import ProbeResult
from npo_core.control.signals import Reading, readings, watched_entropy
from npo_core.timeline import SnapshotRef


def decide(
    config: RunConfig,
    rows: Sequence[Mapping[str, Any]],
    probe: ProbeResult | None,
    left: Budget,
    *,
    number: int,
    flow: str,
    branch: str,
    at: SnapshotRef,
    probe_id: str | None,
) -> Decision:
    """Whether to intervene after update `at.step`, and how.

    Args:
        rows: metrics of every update on the way to `at`. probe: None where none was made.
        left: what the budget still allows.
    """
    settings, trigger = config.auto, config.auto.control.trigger
    seen = readings(rows, trigger)
    why = unweighed(settings, seen[-1] if seen else None, probe, left)
    if probe is None or why is not None:
        scored, choices, best, reason = Chosen([], {}, None, why or "")
    else:
        scored, choices, best, reason = choose(probe, settings, left, Prices(config, probe, rows))
    cost = {} if best is None or best.price is None else best.price.model_dump(exclude={"seconds"})
    return Decision(
        number=number,
        flow=flow,
        branch=branch,
        step=at.step,
        snapshot=at.snapshot,
        intervene=best is not None,
        reason=reason,
        delta=None if best is None else best.delta,
        rollback=rollback_of(best),
        signals=describe(rows, seen, trigger),
        thresholds=thresholds(settings),
        probe=probe_id,
        pool_q=probe.q if probe else None,
        candidates=scored,
        left=left,
        expected=cost or {"updates": 0.0, "tokens": 0.0},
        choices=choices,
    )


def describe(rows: Sequence[Mapping[str, Any]], seen: Sequence[Reading], trigger: Trigger) -> dict[str, Any]:
    """The newest reading, and what it was read from: the updates from one window ago to now, with their averages."""
    window = averaged(rows, seen[-trigger.window - 1 :])
    return {"reading": seen[-1].as_dict() if seen else None, "window": window}


def averaged(rows: Sequence[Mapping[str, Any]], seen: Sequence[Reading]) -> list[dict[str, Any]]:
    """Pass rate and entropy of the updates that were read, each with its moving average."""
    raw = {row["step"]: row for row in rows}
    return [
        {
            "step": reading.step,
            "pass_rate": raw[reading.step]["pass_rate"],
            "entropy": watched_entropy(raw[reading.step]),
            "average_pass_rate": reading.pass_rate,
            "average_entropy": reading.entropy,
        }
        for reading in seen
    ]


def unweighed(settings: AutoNPO, reading: Reading | None, probe: ProbeResult | None, left: Budget) -> str | None:
    """Why no candidates are weighed: no warning, or no confirmation; None: they are."""
    if reading is None or not reading.warning:
        return "No warning: " + quiet(reading, settings.control.trigger)
    if probe is None:
        why = "nothing was probed here" if left.tokens is None else f"{left.tokens} tokens are too few for a probe"
        return f"The signals warn, but {why}, so Q, V and S are not known."
    return None


def quiet(reading: Reading | None, trigger: Trigger) -> str:
    """Why the signals do not warn."""
    if reading is None or reading.gain is None:
        return f"fewer updates are recorded than the window of {trigger.window}."
    if reading.step < trigger.warm_up:
        return f"update {reading.step} is within the warm-up of {trigger.warm_up}."
    told = f"over {trigger.window} updates the pass rate gained {reading.gain:+.3f}"
    told += f" (stagnates below {trigger.min_gain:g}) and entropy lost {reading.entropy_drop:.1%} of itself"
    return told + f" (falls above {trigger.min_entropy_drop:.1%})."


def thresholds(settings: AutoNPO) -> dict[str, Any]:
    """The settings that a decision depends on."""
    return {
        "trigger": settings.control.trigger.model_dump(),
        "probe": settings.probe.model_dump(),
        "choice": settings.choice.model_dump(),
    }
