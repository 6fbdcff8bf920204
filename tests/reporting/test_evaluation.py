"""Tables of scores, of runs and of single models."""

from types import SimpleNamespace

import pytest

from npo_core.reporting.completions import hints
from npo_core.reporting.evaluation import benchmarks_table, data_sets_table, score_table
from npo_core.reporting.intervals import difference, wilson


def score(rate: float, error: float, **fields) -> dict:
    at_k = {"1": rate, "2": rate + 0.1}
    return {
        "pass_rate": rate, "standard_error": error, "by_difficulty": {"3": rate, "4": 0.5},
        "by_difficulty_error": {"3": 0.05, "4": 0.1}, "by_difficulty_problems": {"3": 3, "4": 4},
        "pass_at_k": at_k, "pass_at_k_error": {"1": error, "2": 0.1},
        "problems": 7, "samples": 2, "tokens": 1234, "unfinished": 1, "unparsable": 7, "unverified": 0, **fields,
    }  # fmt: skip


FURTHER = {"maths": score(0.25, 0.1), "quiz": score(0.75, 0.2)}


def test_a_score_has_intervals():
    table = score_table("of a model", score(0.4, 0.2, seconds=3.2), limit=64)
    rows = dict(table.rows)
    assert rows["pass@1 (avg@2)"] == "0.400 (0.130 to 0.748)"  # worth 0.4 x 0.6 / 0.2^2 = 6 answers
    assert rows["pass@1, difficulty 4"] == "0.500 (0.215 to 0.785)"  # at most 4 problems x 2 samples
    assert rows["generated tokens"] == "1,234" and table.note.startswith("In brackets: 95 % intervals")
    assert (rows["answers cut off"], rows["answers without a final answer"]) == ("7.1 %", "50.0 %")
    assert "50.0 % of the answers have no final answer" in table.note and "were cut off at" not in table.note
    assert data_sets_table(score(0.4, 0.05)) is None


def test_every_data_set_has_a_row_and_counts_alike():
    table = data_sets_table(score(0.4, 0.05, benchmarks=FURTHER))
    assert table.header == ["data set", "problems", "pass@1 (avg@2)", "pass@2", "cut off"]
    assert table.rows[2][:1] == ["maths, difficulty 3"] and table.rows[2][2].startswith("0.250 (")
    assert table.rows[0] == ["maths", "7", "0.250 (0.096 to 0.512)", "0.350 (0.114 to 0.692)", "7.1 %"]
    assert table.rows[-1] == ["mean of data sets", "-", "0.500", "-", "-"]


def test_benchmarks_of_a_run_are_shown_where_they_were_asked():
    scores = [score(0.1, 0.1, step=0), score(0.4, 0.05, step=8, benchmarks=FURTHER)]
    table = benchmarks_table(SimpleNamespace(evaluations=scores))
    assert table.header == ["step", "maths", "quiz", "mean"]
    assert table.rows == [["8", "0.250 (0.096 to 0.512)", "0.750 (0.326 to 0.949)", "0.500"]]
    assert benchmarks_table(SimpleNamespace(evaluations=scores[:1])) is None


def test_all_alike_is_no_certainty():
    """Of 5 problems none: Wilson's upper limit is z^2 / (5 + z^2)."""
    none = dict(score_table("of a model", score(0.0, 0.0, problems=5, pass_at_k={"1": 0.0}, by_difficulty={})).rows)
    assert none["pass@1 (avg@1)"] == "0.000 (0.000 to 0.434)" and 1.96**2 / (5 + 1.96**2) == pytest.approx(
        0.434, abs=1e-3
    )
    every = dict(score_table("of a model", score(1.0, 0.0, problems=5, pass_at_k={"1": 1.0}, by_difficulty={})).rows)
    assert every["pass@1 (avg@1)"] == "1.000 (0.566 to 1.000)"


@pytest.mark.parametrize(("right", "of", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)])
def test_wilsons_interval(right, of, low, high):
    """The examples of Newcombe (1998), table I: one sample of each problem."""
    rate = right / of
    error = (rate * (1 - rate) / of) ** 0.5
    assert wilson(rate, error, of) == pytest.approx((low, high), abs=5e-5)


def test_newcombes_interval_of_a_difference():
    """The first example of Newcombe's second paper (1998), method 10: 56 of 70 against 48 of 80."""
    limits = [wilson(right / of, (right / of * (1 - right / of) / of) ** 0.5, of) for right, of in ((56, 70), (48, 80))]
    assert difference(0.8, limits[0], 0.6, limits[1]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_several_samples_of_a_problem_are_worth_what_they_vary():
    """Four samples of each of 100 problems, all alike within a problem, are worth 100 answers; independent ones 400."""
    alike = wilson(0.5, (0.25 / 99) ** 0.5, 100, 4)
    assert alike == pytest.approx(wilson(0.5, (0.25 / 99) ** 0.5, 100, 1), abs=1e-6)
    independent = wilson(0.5, (0.25 / 400) ** 0.5, 100, 4)
    assert independent == pytest.approx((0.4513, 0.5487), abs=1e-4)
    assert wilson(0.5, 0.0, 100, 4) == pytest.approx(independent)  # not more than there are samples
    assert wilson(0.3, 0.0) == (0.3, 0.3)  # of an old record


def test_hints_begin_above_30_percent():
    assert hints(0.3, 0.3, 64) == [] == hints(None, None)
    cut, unread = hints(0.31, 0.9, 64)
    assert (
        "31.0 % of the answers were cut off at training.max_completion_tokens = 64" in cut
        and "answer_pattern" in unread
    )
