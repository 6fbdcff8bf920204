"""The mistake pool: what enters, what leaves first, what a slice holds, and that a snapshot brings it back."""

import json

from hypothesis import given
from hypothesis import strategies as st

from npo_core.config import Control, Pool, Trigger
from npo_core.control.controller import CONTROLLER_FILE, Controller, read_pool
from npo_core.control.pool import Mistake, MistakePool


def ids(pool: MistakePool, since: int = 0) -> list[str]:
    return [mistake.prompt_id for mistake in pool.since(since)]


def test_failures_enter_at_the_threshold_and_passes_do_not():
    pool = MistakePool(Pool(max_pass_rate=0.25))
    pool.add(3, [("zero", 0.0), ("edge", 0.25), ("over", 0.375)])
    assert pool.since(0) == [Mistake("zero", 3, 0.0), Mistake("edge", 3, 0.25)]


def test_a_new_failure_of_a_prompt_replaces_the_old_one_and_is_the_newest():
    pool = MistakePool(Pool())
    pool.add(1, [("a", 0.0), ("b", 0.0)])
    pool.add(2, [("c", 0.0), ("a", 0.25)])
    assert pool.since(0) == [Mistake("b", 1, 0.0), Mistake("c", 2, 0.0), Mistake("a", 2, 0.25)]


def test_a_later_pass_leaves_the_failure_for_the_probe_to_ask():
    pool = MistakePool(Pool())
    pool.add(1, [("a", 0.0)])
    pool.add(2, [("a", 1.0)])
    assert pool.since(0) == [Mistake("a", 1, 0.0)]


def test_the_slice_since_a_snapshot_leaves_out_its_own_step():
    pool = MistakePool(Pool())
    for step in range(1, 5):
        pool.add(step, [(f"p{step}", 0.0)])
    assert [ids(pool, since) for since in (0, 2, 4)] == [["p1", "p2", "p3", "p4"], ["p3", "p4"], []]


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([0.0, 0.25, 1.0])), max_size=5)),
    st.integers(1, 6),
)
def test_it_holds_the_newest_failures_and_no_more_than_its_size(batches, size):
    pool, newest = MistakePool(Pool(size=size)), {}
    for step, batch in enumerate(batches, 1):
        pool.add(step, batch)
        for prompt, rate in batch:
            if rate <= 0.25:
                newest.pop(prompt, None)
                newest[prompt] = Mistake(prompt, step, rate)
    assert pool.since(0) == list(newest.values())[-size:]


def test_a_restored_pool_goes_on_as_the_old_one():
    old, new = (MistakePool(Pool(size=3)) for _ in range(2))
    old.add(1, [("a", 0.0), ("b", 0.125), ("c", 0.0)])
    new.restore(json.loads(json.dumps(old.state())))
    for pool in (old, new):
        pool.add(2, [("b", 0.0), ("d", 0.0)])
    assert new.since(0) == old.since(0) and ids(new) == ["c", "b", "d"]


def test_a_controller_comes_back_from_a_checkpoint(tmp_path):
    control = Control(trigger=Trigger(ema=0.5, window=1, min_gain=1.0, min_entropy_drop=-1.0, warm_up=0))
    old, new = Controller(control), Controller(control, quiet_until=3)
    old.update({"step": 1, "pass_rate": 0.5, "entropy": 1.0}, [("a", 0.0)])
    assert not old.warning  # the window is not full
    old.save(tmp_path)
    new.load(tmp_path)
    assert not new.warning  # nothing was read yet
    for step, warns in ((2, False), (3, False), (4, True)):
        for controller in (old, new):
            controller.update({"step": step, "pass_rate": 0.5, "entropy": 0.9}, [(f"p{step}", 0.0)])
        assert (old.reading, old.pool.since(0)) == (new.reading, new.pool.since(0))
        assert new.warning is warns and old.warning
    assert ids(read_pool(tmp_path)) == ["a"]


def test_updates_without_generation_keep_the_reading(tmp_path):
    control = Control(trigger=Trigger(window=1, min_gain=1.0, min_entropy_drop=-1.0, warm_up=0))
    controller = Controller(control)
    for step, rate in ((1, 0.5), (2, 0.5), (3, None)):
        controller.update({"step": step, "pass_rate": rate, "entropy": 1.0}, [])
    assert controller.warning and controller.reading.step == 2


def test_a_folder_that_was_not_watched_gives_an_empty_controller(tmp_path):
    controller = Controller(Control())
    controller.load(tmp_path)
    assert controller.pool.since(0) == [] and controller.reading is None
    assert not (tmp_path / CONTROLLER_FILE).exists()
