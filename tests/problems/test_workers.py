"""Verifiers that hang, crash, raise or lie: what is said of their answers, and that nothing of them is left."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from npo_core.config.verifier import FunctionVerifier, MathVerifier, Part, WeightedVerifier
from npo_core.errors import ConfigError, DataError, VerifierError
from npo_core.problems import Outcome, Problem
from tests.problems.conftest import completion

ROOT = Path(__file__).parents[2]
RIGHT = ["right"] * 25  # so that one bad answer is no outage


def own(name: str, **changes) -> FunctionVerifier:
    return FunctionVerifier(path=f"tests.problems.own:{name}", **changes)


def workers(of: int | None = None) -> list[psutil.Process]:
    return [p for p in psutil.Process(of).children() if "npo_core.problems.worker" in " ".join(p.cmdline())]


@pytest.mark.parametrize("name", ["same", "slowly"])
def test_a_function_sync_or_async(judge, name):
    verdicts = judge(own(name))([completion("right"), completion("other"), completion("right")])
    assert [v.outcome for v in verdicts] == [Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT]


def test_a_function_gets_the_columns_of_the_row(judge):
    verdicts = judge(own("by_level"))([completion("right", level=3, more=1), completion("right", level=2, more=1)])
    assert [v.correct for v in verdicts] == [True, False]


def test_a_graded_answer_is_not_yet_correct(judge):
    [verdict] = judge(own("half"))([completion("x")])
    assert (verdict.outcome, verdict.accuracy, verdict.reward, verdict.correct) == (Outcome.WRONG, 0.5, 0.5, False)


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("hang", Outcome.TIMEOUT),
        ("stubborn", Outcome.TIMEOUT),
        ("late", Outcome.TIMEOUT),
        ("exit", Outcome.CRASH),
        ("memory", Outcome.CRASH),
        ("outage", Outcome.CRASH),
        ("service", Outcome.CRASH),
    ],
)
def test_an_outage_is_not_a_wrong_answer_and_costs_no_other_its_verdict(judge, word, outcome):
    verdicts = judge(own("by_word", timeout=0.5, memory=1))([completion(text) for text in [word, *RIGHT, "x"]])
    assert verdicts[0].outcome is outcome and verdicts[0].correct is None
    assert math.isnan(verdicts[0].accuracy) and math.isnan(verdicts[0].reward)
    assert [v.correct for v in verdicts[1:]] == [True] * len(RIGHT) + [False]


def test_what_fails_once_is_tried_again_in_a_fresh_worker(judge, monkeypatch, tmp_path):
    monkeypatch.setenv("MARK_FILE", str(tmp_path / "mark"))
    verdicts = judge(own("once_bad"), verifier_workers=1)([completion("right"), completion("wrong")])
    assert [v.correct for v in verdicts] == [True, False]
    assert (tmp_path / "mark").exists()


def test_a_worker_sees_no_gpu(judge, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert judge(own("by_word"))([completion("gpu")])[0].correct


def test_a_worker_that_is_killed_between_batches_is_replaced(judge):
    made = judge(own("by_word"), verifier_workers=1)
    assert made([completion("right")])[0].correct
    [worker] = workers()
    worker.kill()
    worker.wait()
    assert [v.correct for v in made([completion("right"), completion("x")])] == [True, False]


def test_too_many_outages_stop_it_early_and_leave_no_worker(judge):
    """Five are more than 0.1 of 40; the others, a second each, are not waited for."""
    made = judge(own("by_word", timeout=0.5))
    said = r"5 of 40 answers.*own:by_word.*no verdict within 0.5 s.*max_outages = 0.1"
    with pytest.raises(VerifierError, match=said):
        made([completion("hang") for _ in range(40)])
    assert workers() == []
    assert made([completion("right")])[0].correct  # and the next batch is a new one


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("raise", ["raised ValueError: no such answer", 'raise ValueError("no such answer")']),
        ("leave", ["raised SystemExit: no", 'sys.exit("no")']),
        ("nan", ["raised ValueError: it returned nan"]),
    ],
)
def test_what_a_function_raises_again_is_its_fault_and_is_named_with_its_row(judge, word, said):
    """File, line, traceback and row, all bounded; not an outage, however many of those are allowed."""
    made = judge(own("by_word"), max_outages=0.9)
    with pytest.raises(DataError) as caught:
        made([completion(text, "long" * 500, level=3) for text in [*RIGHT, word]])
    message = str(caught.value)
    own_file = str(ROOT / "tests/problems/own.py") if word != "nan" else "functions.py"
    for part in [*said, own_file, "line ", f"completion: {word}", "prompt: What is it?", "level: 3"]:
        assert part in message
    assert "(2,000 characters)" in message and len(message) < 3000
    assert caught.value.exit_code == 65 and not caught.value.retryable and workers() == []


def test_what_a_function_raises_once_is_forgotten(judge, monkeypatch, tmp_path):
    monkeypatch.setenv("MARK_FILE", str(tmp_path / "mark"))
    verdicts = judge(own("once_raising"), verifier_workers=1)([completion("right"), completion("wrong")])
    assert [v.correct for v in verdicts] == [True, False] and (tmp_path / "mark").exists()


def test_the_bound_is_a_setting(judge):
    batch = [completion(text) for text in ["service"] * 10 + ["right"] * 10]
    verdicts = judge(own("by_word"), max_outages=0.5)(batch)
    assert sum(v.outcome is Outcome.CRASH for v in verdicts) == 10
    with pytest.raises(VerifierError, match="ConnectionError: no service"):
        judge(own("by_word"), max_outages=0.45)(batch)


def test_an_outage_in_any_part_leaves_the_accuracy_known_and_the_reward_not(judge):
    verifier = WeightedVerifier(
        parts=[
            Part(name="accuracy", weight=1, verifier=own("same")),
            Part(name="style", weight=1, verifier=own("by_word", timeout=0.5)),
        ]
    )
    hung, fine = judge(verifier)([completion("hang", "hang"), completion("right")])
    assert (hung.outcome, hung.accuracy) == (Outcome.TIMEOUT, 1.0) and math.isnan(hung.reward)
    assert (fine.outcome, fine.accuracy, fine.reward) == (Outcome.CORRECT, 1.0, 2.0)


def test_another_part_may_have_any_range(judge):
    verifier = WeightedVerifier(
        parts=[
            Part(name="accuracy", weight=1, verifier=own("same")),
            Part(name="bonus", weight=-2, verifier=own("by_word")),
        ]
    )
    assert judge(verifier)([completion("much", "much")])[0].reward == 1 - 2 * 5


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tests.problems.nothing:same", ["ModuleNotFoundError", "PYTHONPATH"]),
        ("tests.problems.own:gone", ["AttributeError", "package.module:name"]),
        ("tests.problems.own:NUMBER", ["cannot be called"]),
        ("tests.problems.own:no_answer", ["does not take answer", "(prompt, completion, answer, **row)"]),
        ("tests.problems.own:wants_more", ["'rubric'", "answer, completion, level, prompt"]),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_any_answer(judge, path, words):
    example = Problem("0" * 16, "p", "a", 0, {"level": 3})
    with pytest.raises(ConfigError) as caught:
        judge(FunctionVerifier(path=path), example=example)([])
    for word in [path, *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [("word", "'yes'"), ("much", "5, but it is the accuracy")])
def test_a_result_that_is_no_verdict_stops_at_once(judge, text, said):
    with pytest.raises(ConfigError, match=said):
        judge(own("by_word"))([completion(text)])


def test_a_module_that_ends_its_process_is_refused(judge, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="deadly:check cannot start .*code 7"):
        judge(FunctionVerifier(path="deadly:check"))([])


def test_a_reference_that_is_no_mathematics_is_an_outage_and_no_wrong_answer(judge):
    verdicts = judge(MathVerifier())([completion("\\boxed{3}", ""), completion("\\boxed{3}", "3")])
    assert [v.outcome for v in verdicts] == [Outcome.CRASH, Outcome.CORRECT]


@pytest.mark.parametrize("text", ["\\boxed{9^{9^{9^{9}}}}", "\\boxed{10000000000!}"])
def test_mathematics_that_takes_forever_is_a_timeout(judge, text):
    verdicts = judge(MathVerifier(timeout=1.0))([completion(text, "3"), completion("\\boxed{3}", "3")])
    assert [v.outcome for v in verdicts] == [Outcome.TIMEOUT, Outcome.CORRECT]


def test_workers_end_with_their_judge(judge):
    made = judge(own("same"), verifier_workers=3)
    made([completion("right") for _ in range(9)])
    assert len(workers()) == 3
    del made
    assert workers() == []


def test_what_a_function_started_ends_with_its_worker(judge, monkeypatch, tmp_path):
    monkeypatch.setenv("CHILD_FILE", str(tmp_path / "child"))
    judge(own("by_word", timeout=1.0))([completion("child")])
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


PARENT = """
from npo_core.config import Execution
from npo_core.config.verifier import FunctionVerifier
from npo_core.problems import Completion, Problem
from npo_core.problems.judge import make_judge

verifier = FunctionVerifier(path="tests.problems.own:by_word", timeout=600)
judge = make_judge(verifier, "(.)", Execution(verifier_workers=3))
judge([])
print("ready", flush=True)
judge([Completion(Problem("0", "p", "a", 0), text, 1, True) for text in ("hang", "stubborn", "hang")])
"""


def test_killing_the_parent_leaves_no_worker():
    """One of them sleeps, another holds the interpreter's lock."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 120
        while len(found := workers(parent.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # all are at their answers
        parent.kill()
    assert len(found) == 3
    _, alive = psutil.wait_procs(found, timeout=60)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
