"""Several held-out data sets, and verifiers by name for sources and rows."""

import pytest
from pydantic import ValidationError
from small_data import data, problems_of, write_jsonl

from npo_core.errors import DataError
from npo_core.problems import Completion, Outcome
from npo_core.problems.load import load_problems

TRAIN = [
    {"question": "1+1?", "answer": "#### 2", "how": None},
    {"question": "Red or blue? A. red B. blue", "answer": "#### A", "how": "letters"},
    {"question": "2+2?", "answer": "#### 4", "how": ""},
    {"question": "5+5?", "answer": "#### 10", "how": ""},
]
QUIZ = [{"q": "Which? A. x B. y", "a": "B"}, {"q": "And now? A. x B. y", "a": "A"}]
MATHS = [{"q": "Half of one?", "a": "0.5", "level": "easy"}]
VERIFIERS = {"letters": {"kind": "choice"}, "value": {"kind": "numeric"}}


@pytest.fixture
def settings(tmp_path):
    def make(train=TRAIN, **fields):
        columns = {"prompt": "q", "answer": "a"}
        benchmarks = {
            "quiz": {"path": write_jsonl(tmp_path / "quiz.jsonl", QUIZ), "columns": columns, "verifier": "letters"},
            "maths": {
                "path": write_jsonl(tmp_path / "maths.jsonl", MATHS),
                "columns": columns | {"difficulty": "level"},
                "verifier": "value",
            },
        }
        source = {"path": write_jsonl(tmp_path / "train.jsonl", train), "columns": {"verifier": "how"}}
        given = {"train": source, "held_out_rows": 1, "benchmarks": benchmarks, "verifiers": VERIFIERS, "chat": "never"}
        return data(**{**given, **fields})

    return make


def test_each_is_a_set_of_its_own_with_the_verifier_that_its_source_or_row_names(settings):
    problems = problems_of(settings())
    assert [*problems.benchmarks] == ["quiz", "maths"] and len(problems.train) == 3 and len(problems.held_out) == 1
    assert [p.answer for p in problems.benchmarks["quiz"]] == ["B", "A"]
    assert problems.benchmarks["maths"][0].difficulty == "easy"
    named = {p.prompt: p.verifier for p in [*problems.train, *problems.held_out]}
    assert named == {"1+1?": "", "Red or blue? A. red B. blue": "letters", "2+2?": "", "5+5?": ""}
    assert problems.report["benchmarks.quiz"]["problems"] == 2

    everything = [*problems.train, *problems.held_out, *problems.benchmarks["quiz"], *problems.benchmarks["maths"]]
    said = {"1+1?": "#### 2", "Which? A. x B. y": "(B)", "And now? A. x B. y": "Answer: B", "Half of one?": "1/2"}
    verdicts = problems.judge([Completion(p, said.get(p.prompt, "no"), 3, True) for p in everything])
    found = {p.prompt: verdict.outcome for p, verdict in zip(everything, verdicts, strict=True)}
    assert found["1+1?"] == found["Which? A. x B. y"] == found["Half of one?"] == Outcome.CORRECT
    assert found["And now? A. x B. y"] == Outcome.WRONG and found["2+2?"] == Outcome.UNPARSABLE


def test_a_judge_whose_problems_are_not_asked_is_not_started(settings):
    """math-verify needs workers; a training batch without such a problem starts none."""
    problems = problems_of(settings(verifiers=VERIFIERS | {"value": {"kind": "math"}}))
    problems.judge([Completion(problems.train[0], "#### 2", 3, True)])
    assert not problems.judge.judges["value"].judge.workers


def test_unknown_names_are_refused(settings):
    with pytest.raises(ValidationError, match="problems.benchmarks.quiz.verifier = letters is none of"):
        settings(verifiers={})
    with pytest.raises(DataError, match=r"'words' \(column how\) is none of problems.verifiers: row 2"):
        problems_of(settings(train=[TRAIN[0], TRAIN[2] | {"how": "words"}, TRAIN[3]]))
    with pytest.raises(ValidationError, match="benchmarks"):
        settings(benchmarks={"Not A Name": {"path": "x.jsonl"}})


def test_answers_are_checked_by_the_verifier_of_their_row(settings):
    with pytest.raises(DataError, match=r"finds no letter \(column answer\): row 1"):
        problems_of(settings(train=[TRAIN[0] | {"how": "letters"}, *TRAIN[1:]]))


def test_training_on_a_benchmark_is_refused(settings):
    with pytest.raises(DataError, match="1 problems are in both .*train.jsonl and .*quiz.jsonl"):
        problems_of(settings(train=[*TRAIN, {"question": QUIZ[0]["q"], "answer": "B", "how": "letters"}]))


def test_an_evaluation_alone_leaves_training_problems_unread(settings, tmp_path):
    held_out = {"path": write_jsonl(tmp_path / "held_out.jsonl", TRAIN[:1])}
    apart = settings(held_out=held_out, held_out_rows=None)
    (tmp_path / "train.jsonl").unlink()
    problems = load_problems(apart, held_out_only=True)
    assert not problems.train and len(problems.held_out) == 1 and len(problems.benchmarks["quiz"]) == 2
    with pytest.raises(DataError, match="gone.jsonl"):
        load_problems(settings().model_copy(update={"train": apart.train.model_copy(update={"path": "gone.jsonl"})}))
