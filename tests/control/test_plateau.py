"""Where a plateau began, on curves whose answer is known, and the plan that is made from it."""

import json

import pytest

from npo_core.config import Plateau, Trigger
from npo_core.control.breakthrough import branch_name, plan_rollback
from npo_core.control.decision import Decision
from npo_core.control.plateau import PlateauFound, find_plateau
from npo_core.errors import ConfigError
from npo_core.names import PLATEAU
from npo_core.timeline import SnapshotRef

TRIGGER = Trigger(ema=0.0, window=10, min_gain=0.05, min_entropy_drop=0.05, warm_up=20)


def rows(rates: list[float], tokens: float = 10.0) -> list[dict]:
    """Updates from 1 on, whose entropy loses 1 % a step."""
    return [
        {"step": i, "pass_rate": rate, "entropy": 0.99**i, "tokens_generated": tokens}
        for i, rate in enumerate(rates, 1)
    ]


def rise(steps: int, to: float) -> list[float]:
    return [to * (i + 1) / steps for i in range(steps)]


PLATEAU_AT_40 = rise(40, 0.8) + [0.8] * 40  # 0.02 an update, so a window gains 0.2


def test_a_plateau_begins_where_its_level_is_nearly_reached():
    # 0.75 is reached at update 38; the signals warn from where a window gains less than 0.05 on.
    assert find_plateau(rows(PLATEAU_AT_40), TRIGGER) == PlateauFound(began=38, warned=80, level=0.8)


def test_a_run_that_still_improves_has_none():
    assert find_plateau(rows(rise(80, 0.8)), TRIGGER) is None


def test_flat_with_rising_entropy_is_none():
    flat = [row | {"entropy": 1 / row["entropy"]} for row in rows([0.5] * 60)]
    assert find_plateau(flat, TRIGGER) is None


def test_the_newest_of_several_plateaus_counts():
    stairs = PLATEAU_AT_40 + [0.8 + 0.01 * i for i in range(1, 11)] + [0.9] * 30
    found = find_plateau(rows(stairs), TRIGGER)
    assert (found.began, found.level) == (85, pytest.approx(0.9))


@pytest.mark.parametrize("min_gain", [0.0, -0.01])
def test_a_threshold_of_no_gain_finds_the_level_itself(min_gain):
    falling = rows(rise(40, 0.8) + [0.8 - 0.002 * i for i in range(40)])
    found = find_plateau(falling, TRIGGER.model_copy(update={"min_gain": min_gain}))
    assert found.level == pytest.approx(0.722) and found.began == 37  # 0.74 is the first rate that is no less


def test_the_rollback_goes_to_the_newest_snapshot_at_or_before_the_beginning():
    found = PlateauFound(began=40, warned=80, level=0.8)
    assert [found.rollback_step(steps) for steps in ([0, 20, 40, 60], [0, 20, 60], [60], [])] == [40, 20, None, None]


def states(*steps: int) -> dict[int, str]:
    return {step: f"s{step}" for step in steps}


def make(plateau: Plateau, known: list[dict], there: dict[int, str], guide: int = 80):
    return plan_rollback(
        plateau, known, there, number=2, branch="main", guide=SnapshotRef(step=guide, snapshot=f"s{guide}")
    )


def test_a_plan_by_detection():
    made = make(Plateau(trigger=TRIGGER), rows(PLATEAU_AT_40), states(0, 20, 40, 60, 80))
    assert (made.flow, made.intervene, made.delta) == (PLATEAU, True, 60)
    assert made.rollback == SnapshotRef(step=20, snapshot="s20") and made.snapshot == "s80"
    assert made.expected == {"updates": 60.0, "tokens": 600.0}
    assert "nearly reached at update 38" in made.reason and "the snapshot of step 20 is the last before" in made.reason
    assert made.thresholds == Plateau(trigger=TRIGGER).model_dump(mode="json")
    assert made.signals["reading"]["step"] == 80 and len(made.signals["window"]) == 11


def test_a_plan_by_hand_needs_no_plateau():
    made = make(Plateau(trigger=TRIGGER, rollback_step=60), rows(rise(80, 0.8)), states(0, 60, 80))
    assert made.rollback == SnapshotRef(step=60, snapshot="s60") and made.reason == "The rollback to step 60 was given."
    assert made.expected["tokens"] == 200.0


def test_without_a_plateau_nothing_is_planned():
    made = make(Plateau(trigger=TRIGGER), rows(rise(80, 0.8)), states(0, 80))
    assert (made.intervene, made.rollback, made.delta) == (False, None, None) and made.reason.startswith("No plateau")
    assert made.expected == {"updates": 0.0, "tokens": 0.0}
    early = make(Plateau(trigger=TRIGGER), rows(PLATEAU_AT_40), states(60, 80))
    assert not early.intervene and early.reason == "The plateau began at update 38, before the first snapshot."


def test_a_run_without_a_plateau_is_told_why():
    short = make(Plateau(), rows(rise(24, 0.8)), states(0, 12, 24), guide=24)
    assert short.reason.endswith("a warm-up (trigger.warm_up) of 60 updates is longer than the run's 24.")
    known = rows(rise(24, 0.8))
    wide = make(Plateau(trigger=Trigger(warm_up=0, window=60)), known, states(0, 12, 24), guide=24)
    assert "a window (trigger.window) of 60 updates leaves nothing to compare in the run's 24." in wide.reason
    rising = make(Plateau(trigger=TRIGGER), rows(rise(80, 0.8)), states(0, 80))
    assert "the signals never warn; at the end, over" in rising.reason and "gained" in rising.reason


@pytest.mark.parametrize("step", [30, 80, 100])
def test_a_step_without_a_snapshot_before_the_guide_is_refused_by_name(step):
    with pytest.raises(ConfigError, match=f"plateau.rollback_step = {step}: .* choose one of 0, 60"):
        make(Plateau(rollback_step=step), rows(PLATEAU_AT_40), states(0, 60, 80, 100))


def test_the_branch_is_named_after_all_that_decides_it():
    known, there = rows(PLATEAU_AT_40), states(0, 20, 80)
    first = make(Plateau(trigger=TRIGGER), known, there)
    name = branch_name(first)
    assert name.startswith("late-20-80-") and len(name) == len("late-20-80-") + 6
    assert branch_name(first.model_copy(update={"number": 9})) == name
    kept = json.loads(json.dumps(first.model_dump(mode="json"), sort_keys=True))  # as it is stored
    assert branch_name(Decision.model_validate(kept)) == name
    others = [
        make(Plateau(trigger=TRIGGER, guided=False), known, there),
        make(Plateau(trigger=TRIGGER, fresh_randomness=True), known, there),
        first.model_copy(update={"snapshot": "another"}),
    ]
    assert len({name, *map(branch_name, others)}) == 4
