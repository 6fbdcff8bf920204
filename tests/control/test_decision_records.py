"""Decisions in the workspace: added, never changed, and what waits for an answer."""

import pytest

from npo_core.config import Plateau
from npo_core.control.breakthrough import plan_rollback
from npo_core.control.decision import Budget, Decision
from npo_core.control.records import Approval, Decisions, Result, Window
from npo_core.errors import DamagedError
from npo_core.names import AUTO_NPO
from npo_core.timeline import SnapshotRef, Store


def decision(number: int = 1, intervene: bool = True, **changes) -> Decision:
    values = {
        "number": number,
        "flow": AUTO_NPO,
        "branch": "main",
        "step": 100,
        "snapshot": "s100",
        "intervene": intervene,
        "reason": "Because.",
        "delta": 40 if intervene else None,
        "rollback": SnapshotRef(step=60, snapshot="s60") if intervene else None,
        "signals": {"reading": None, "window": []},
        "thresholds": {},
        "probe": "p",
        "pool_q": 0.25,
        "candidates": [],
        "left": Budget(tokens=1000),
        "expected": {"updates": 40.0, "tokens": 0.1 + 0.2},
    }
    return Decision(**{**values, **changes})


def result(number: int = 1, difference: float = 0.1) -> Result:
    window = {"pass_rate": 0.5, "entropy": 0.2}
    return Result(
        number=number,
        t0=60,
        t1=100,
        replay=Window(branch="replay-1", **window),
        abandoned=Window(branch="main", **window),
        difference=difference,
        groups_injected=3,
        groups_rescued=1,
    )


@pytest.fixture
def decisions(tmp_path) -> Decisions:
    return Decisions(Store(tmp_path))


def test_what_is_added_is_read_back_to_the_last_digit(decisions):
    made = decision()
    assert decisions.add(made) == made
    assert Decisions(decisions.store).get(1) == made and decisions.get(2) is None


def test_records_never_change(decisions):
    first = decisions.add(decision())
    assert decisions.add(decision(reason="Something else.")) == first == decisions.get(1)
    kept = decisions.add_result(result())
    assert decisions.add_result(result(difference=0.9)) == kept == decisions.result(1)
    said = decisions.add_approval(1, Approval(answer="decline"))
    assert decisions.add_approval(1, Approval(answer="accept")) == said == decisions.approval(1)


def test_all_lists_decisions_alone_and_in_order(decisions):
    for number in (2, 10, 1):
        decisions.add(decision(number))
    decisions.add_result(result(2))
    decisions.add_approval(2, Approval(answer="accept"))
    assert [d.number for d in decisions.all()] == [1, 2, 10]


def test_a_damaged_record_is_named(decisions):
    decisions.add(decision())
    decisions.store.write_json("decisions/0001.json", {"number": 1})
    with pytest.raises(DamagedError, match=r"decisions/0001\.json is no record of a decision"):
        decisions.all()


def test_what_waits_is_the_newest_proposal_without_an_answer(decisions):
    assert decisions.waiting() is None
    decisions.add(decision(1, intervene=False))
    assert decisions.waiting() is None
    decisions.add(decision(2))
    late = plan_rollback(
        Plateau(rollback_step=0), [], {0: "s0"}, number=3, branch="main", guide=SnapshotRef(step=4, snapshot="s4")
    )
    decisions.add(late)
    assert decisions.waiting().number == 2
    decisions.add_approval(2, Approval(answer="other", delta=20))
    assert decisions.waiting() is None


def test_what_was_carried_out_waits_no_more(decisions):
    decisions.add(decision())
    decisions.add_result(result())
    assert decisions.waiting() is None
