"""Completions that are verified while others of their batch are still written: the verdicts of the batch at once."""

from __future__ import annotations

import time

import pytest

from npo_core.config.verifier import AllOfVerifier, ExactVerifier, FunctionVerifier, Part, WeightedVerifier
from npo_core.errors import ConfigError, DataError, VerifierError
from npo_core.problems.judge import ByName, begin
from tests.problems.conftest import completion
from tests.problems.test_workers import own, workers

WORDS = ["right", "hang", "x", "exit", *["right"] * 40, "outage", "x", "right"]
ANSWERS = [completion(word, tokens=number) for number, word in enumerate(WORDS)]  # three of them twice, and the same
ANSWERS += [completion("right", finished=False), ANSWERS[0], ANSWERS[2]]


def said(verdicts) -> list[tuple]:
    """Verdicts that can be compared: NaN is not itself."""
    return [(v.outcome, str(v.accuracy), str(v.reward), v.fallback) for v in verdicts]


def appear(path) -> None:
    """Wait for a file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, "nothing was verified before the batch was asked"
        time.sleep(0.01)


def test_verdicts_are_those_of_the_whole_batch_in_its_order(judge):
    """Outages and time limits among them; the rest of the batch is in no order, and one part is not given before."""
    verifier = own("by_word", timeout=0.5)
    whole = said(judge(verifier)(ANSWERS))
    assert {outcome for outcome, *_ in whole} == {"correct", "wrong", "timeout", "crash"}
    growing = judge(verifier)
    for part in (ANSWERS[30:40], ANSWERS[:8], ANSWERS[44:]):
        assert begin(growing, part)
    assert said(growing(ANSWERS)) == whole
    before = workers()  # some of which replaced others: they outlive the batch
    assert said(growing([ANSWERS[0], ANSWERS[2]])) == [whole[0], whole[2]] and workers() == before


def test_it_begins_at_once(judge, monkeypatch, tmp_path):
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK_FILE", str(mark))
    made = judge(own("marked"))
    assert begin(made, [completion("right")])
    appear(mark)
    assert [v.correct for v in made([completion("x"), completion("right")])] == [False, True]


def test_every_part_with_workers_begins_and_none_that_depends_on_another(judge, monkeypatch, tmp_path):
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK_FILE", str(mark))
    slow, fast, asked = own("marked"), ExactVerifier(), [completion("right"), completion("x")]
    mixed = ByName({"": judge(fast), "slow": judge(slow)})
    assert begin(mixed, []) and not begin(mixed.judges[""], asked)
    assert begin(mixed, asked) and not mark.exists()  # none of these is for the slow one
    parts = [Part(name="accuracy", weight=0.5, verifier=own("same")), Part(name="other", weight=0.5, verifier=slow)]
    weighted = judge(WeightedVerifier(parts=parts))
    assert begin(weighted, asked)
    appear(mark)
    assert [v.reward for v in weighted(asked)] == [1.0, 0.0]
    assert begin(judge(AllOfVerifier(parts=[slow, fast])), [])
    assert not begin(judge(AllOfVerifier(parts=[fast, slow])), [])
    assert not begin(lambda completions: [], asked)


def test_too_many_outages_are_a_share_of_the_whole_batch(judge):
    """Three of 25 in all are too many for a bound of 0.1, of 40 they are not; that is known once all are."""
    made = judge(own("by_word"), max_outages=0.1)
    bad = [completion("outage", tokens=i) for i in range(3)]
    begin(made, bad)
    assert len(made([*bad, *[completion("right")] * 37])) == 40
    begin(made, bad)
    with pytest.raises(VerifierError, match="3 of 25 answers could not be verified"):
        made([*bad, *[completion("right")] * 22])
    assert not workers()
    assert made([completion("right")])[0].correct  # and goes on


@pytest.mark.parametrize(("word", "kind"), [("raise", DataError), ("word", ConfigError)])
def test_what_stops_a_run_stops_it_when_the_batch_is_asked(judge, word, kind):
    made = judge(own("by_word"))
    begin(made, [completion(word)])
    begin(made, [completion("right")])
    with pytest.raises(kind, match="by_word"):
        made([completion(word), completion("right")])
    assert not workers()


def test_a_function_that_is_not_there_is_named(judge):
    made = judge(FunctionVerifier(path="tests.problems.own:no_such"))
    begin(made, [completion("right")])
    with pytest.raises(ConfigError, match="no_such"):
        made([completion("right")])
