"""The warning signal: averages by hand, edges of window and warm-up, both conditions, and going on from a state."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npo_core.config import Trigger
from npo_core.control.signals import Signals, readings
from studies.triggers_curves import LOOKS, made_family
from studies.triggers_measure import averaged_changes

SMALL = Trigger(ema=0.5, window=2, min_gain=0.02, min_entropy_drop=0.05, warm_up=0)


def row(step: int, pass_rate: float | None, entropy: float | None) -> dict:
    return {"step": step, "pass_rate": pass_rate, "entropy": entropy}


def rows_of(rates: list, entropies: list) -> list[dict]:
    return [row(step, *values) for step, values in enumerate(zip(rates, entropies, strict=True), 1)]


def test_averages_are_corrected_for_their_start():
    """With weight 1/2 on the past, three values weigh 1/7, 2/7, 4/7: nothing is drawn to zero."""
    found = readings(rows_of([0.7, 0.0, 0.35], [1.4, 0.7, 0.7]), SMALL)
    assert [r.pass_rate for r in found] == pytest.approx([0.7, 0.7 / 3, (0.7 + 4 * 0.35) / 7])
    assert [r.entropy for r in found] == pytest.approx([1.4, 2.8 / 3, (1.4 + 2 * 0.7 + 4 * 0.7) / 7])


def test_gain_and_drop_compare_with_the_average_a_window_ago():
    found = readings(rows_of([0.5, 0.5, 0.5, 1.0], [1.0, 1.0, 1.0, 0.25]), SMALL)
    assert [r.gain for r in found[:2]] == [None, None] and [r.entropy_drop for r in found[:2]] == [None, None]
    assert found[2].gain == 0 and found[2].entropy_drop == 0
    assert found[3].gain == pytest.approx(8 / 15 * 0.5)  # the newest of four weighs 8/15
    assert found[3].entropy_drop == pytest.approx(8 / 15 * 0.75)


@pytest.mark.parametrize("now", [0.0, 0.3])
def test_nothing_falls_from_an_entropy_of_zero(now):
    last = readings(rows_of([0.5] * 3, [0.0, 0.0, now]), SMALL)[-1]
    assert last.entropy_drop == 0 and last.stagnates and not last.falls and not last.warning


@pytest.mark.parametrize(
    ("rates", "entropies", "stagnates", "falls"),
    [
        ([0.5, 0.5, 0.5], [1.0, 0.9, 0.8], True, True),
        ([0.5, 0.6, 0.7], [1.0, 0.9, 0.8], False, True),
        ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0], True, False),
        ([0.5, 0.5, 0.5], [1.0, 1.1, 1.2], True, False),
        ([0.5, 0.6, 0.7], [1.0, 1.0, 1.0], False, False),
        ([0.5, 0.4, 0.3], [1.0, 0.9, 0.8], True, True),
    ],
)
def test_a_warning_needs_both(rates, entropies, stagnates, falls):
    last = readings(rows_of(rates, entropies), SMALL)[-1]
    assert (last.stagnates, last.falls, last.warning) == (stagnates, falls, stagnates and falls)


def test_thresholds_themselves_do_not_warn():
    """A gain of exactly min_gain is no stagnation, a drop of exactly min_entropy_drop no fall."""
    edge = SMALL.model_copy(update={"ema": 0.0, "min_gain": 0.25, "min_entropy_drop": 0.5})
    gained = readings(rows_of([0.25, 0.25, 0.5], [1.0, 1.0, 0.25]), edge)[-1]
    dropped = readings(rows_of([0.25, 0.25, 0.25], [1.0, 1.0, 0.5]), edge)[-1]
    assert (gained.stagnates, gained.falls) == (False, True)
    assert (dropped.stagnates, dropped.falls) == (True, False)


def test_warm_up_counts_updates_not_readings():
    rows = [row(step, 0.5, 1 / step) for step in range(1, 9)]
    warm = SMALL.model_copy(update={"warm_up": 6})
    assert [r.step for r in readings(rows, warm) if r.warning] == [6, 7, 8]
    assert [r.step for r in readings(rows, SMALL) if r.warning] == [3, 4, 5, 6, 7, 8]


def test_updates_without_generation_change_nothing():
    """Two optimizer updates a batch: every second row has no pass rate of its own."""
    full = rows_of([0.2, 0.4, 0.5, 0.5, 0.5], [1.0, 0.8, 0.7, 0.6, 0.5])
    empty = [row(r["step"], None, r["entropy"]) for r in full], [row(r["step"], 0.1, None) for r in full]
    mixed = [r for group in zip(full, *empty, strict=True) for r in group]
    assert readings(mixed, SMALL) == readings(full, SMALL)
    assert Signals(SMALL).update(row(1, None, None)) is None


SHARE = st.floats(0, 1, allow_nan=False)
VALUES = st.lists(st.tuples(st.one_of(st.none(), SHARE), SHARE), min_size=1, max_size=60)


@given(VALUES, st.integers(0, 60), st.sampled_from([0.0, 0.5, 0.9, 0.97]), st.integers(1, 12))
def test_going_on_from_a_state_is_the_uninterrupted_fold(values, cut, ema, window):
    """The state goes through JSON, as in a snapshot."""
    trigger = Trigger(ema=ema, window=window, min_gain=0.02, min_entropy_drop=0.05, warm_up=3)
    rows = rows_of([rate for rate, _ in values], [entropy for _, entropy in values])
    first = Signals(trigger)
    before = [first.update(r) for r in rows[:cut]]
    second = Signals(trigger)
    second.restore(json.loads(json.dumps(first.state())))
    after = [second.update(r) for r in rows[cut:]]
    assert [r for r in before + after if r is not None] == readings(rows, trigger)


def test_a_restored_state_holds_no_more_than_its_window():
    signals = Signals(SMALL)
    for r in rows_of([0.5] * 20, [1.0] * 20):
        signals.update(r)
    assert len(signals.state()["averages"]) == SMALL.window + 1


@pytest.mark.parametrize(("ema", "window"), [(0.9, 60), (0.8, 20), (0.97, 80)])
def test_the_measurement_sees_what_the_signals_see(ema, window):
    """docs/triggers.md folds all curves at once; that must be the run's own signal."""
    curves = made_family(0, "saturating rise", seed=0)
    gain, drop = averaged_changes(curves, ema, window)
    for i in range(3):
        found = readings(
            rows_of(curves.pass_rate[i].tolist(), curves.entropy[i].tolist()), Trigger(ema=ema, window=window)
        )
        at_looks = [found[look - 1] for look in LOOKS]
        np.testing.assert_allclose(gain[i], [np.nan if r.gain is None else r.gain for r in at_looks], atol=1e-12)
        np.testing.assert_allclose(
            drop[i], [np.nan if r.gain is None else r.entropy_drop for r in at_looks], atol=1e-12
        )


def test_the_policys_own_entropy_is_watched_where_it_is_recorded():
    own = [row(s, 0.5, 9.0) | {"entropy_on_policy": 0.9**s} for s in range(1, 8)]
    old = [row(s, 0.5, 0.9**s) for s in range(1, 8)]
    missing = [r | {"entropy_on_policy": None} for r in old]
    trigger = Trigger(window=3)
    assert readings(own, trigger) == readings(old, trigger) == readings(missing, trigger)
