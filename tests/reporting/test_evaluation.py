"""Tables of scores, of runs and of single models."""

from types import SimpleNamespace

import pytest

from npo_core.reporting.evaluation import benchmarks_table, data_sets_table, score_table


def score(rate: float, error: float, **fields) -> dict:
    at_k = {"1": rate, "2": rate + 0.1}
    return {
        "pass_rate": rate, "standard_error": error, "by_difficulty": {"3": rate, "4": 0.5},
        "by_difficulty_error": {"3": 0.01, "4": 0.02}, "pass_at_k": at_k, "pass_at_k_error": {"1": error, "2": 0.1},
        "problems": 7, "samples": 2, "tokens": 1234, "unfinished": 1, "unverified": 0, **fields,
    }  # fmt: skip


FURTHER = {"maths": score(0.25, 0.1), "quiz": score(0.75, 0.2)}


def test_a_score_has_intervals():
    rows = dict(score_table("of a model", score(0.4, 0.05, seconds=3.2)).rows)
    assert rows["pass@1 (avg@2)"] == "0.400 ± 0.098" and rows["pass@2"] == "0.500 ± 0.196"
    assert rows["pass@1, difficulty 4"] == "0.500 ± 0.039" and rows["generated tokens"] == "1,234"
    assert data_sets_table(score(0.4, 0.05)) is None


def test_every_data_set_has_a_row_and_counts_alike():
    table = data_sets_table(score(0.4, 0.05, benchmarks=FURTHER))
    assert table.header == ["data set", "problems", "pass@1 (avg@2)", "pass@2", "cut off"]
    assert table.rows[2] == ["maths, difficulty 3", "-", "0.250 ± 0.020", "-", "-"]
    assert table.rows[0] == ["maths", "7", "0.250 ± 0.196", "0.350 ± 0.196", "1"]
    assert table.rows[-1] == ["mean of data sets", "-", "0.500", "-", "-"]


def test_benchmarks_of_a_run_are_shown_where_they_were_asked():
    scores = [score(0.1, 0.1, step=0), score(0.4, 0.05, step=8, benchmarks=FURTHER)]
    table = benchmarks_table(SimpleNamespace(evaluations=scores))
    assert table.header == ["step", "maths", "quiz", "mean"]
    assert table.rows == [["8", "0.250 ± 0.100", "0.750 ± 0.200", "0.500"]]
    assert benchmarks_table(SimpleNamespace(evaluations=scores[:1])) is None


def test_all_alike_is_no_certainty():
    """Of 5 problems none: the rate may be as high as where 2.5 % of such samples have none."""
    none = dict(score_table("of a model", score(0.0, 0.0, problems=5, pass_at_k={"1": 0.0}, by_difficulty={})).rows)
    assert none["pass@1 (avg@1)"] == "0.000 (at most 0.522)" and (1 - 0.522) ** 5 == pytest.approx(0.025, rel=0.01)
    every = dict(score_table("of a model", score(1.0, 0.0, problems=5, pass_at_k={"1": 1.0}, by_difficulty={})).rows)
    assert every["pass@1 (avg@1)"] == "1.000 (at least 0.478)"
