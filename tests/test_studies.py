"""The studies' pages: what is generated goes between the marks of the documents, and nothing else changes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies import methods, results_report, signal_report, triggers_report
from studies.results import ARMS, SEEDS

ROOT = Path(__file__).parents[1]
MARKS = r"<!-- begin of what python -m studies.results {0} generated -->(.*)<!-- end of what .* {0} generated -->"


@pytest.fixture
def docs(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png")))


def made_up(group: str) -> list[dict]:
    """A straight curve of every arm and seed."""
    points = [{"step": s, "updates": s, "tokens": 700 * s, "pass_rate": 0.4 + s / 1000} for s in range(0, 401, 20)]
    return [
        {"arm": arm.name, "seed": seed, "points": points, "decisions": []}
        for arm in ARMS[group]
        for seed in SEEDS[group]
    ]


@pytest.mark.parametrize("group", ARMS)
def test_results_are_written_between_their_marks(docs, group):
    before = (docs / "results.md").read_text()
    results_report.write(group, made_up(group), docs)
    after = (docs / "results.md").read_text()
    marks = re.compile(MARKS.format(group), re.DOTALL)
    (part,) = marks.findall(after)
    assert "GRPO" in part and "nan" not in part
    assert marks.sub("", after) == marks.sub("", before) != before


@pytest.mark.parametrize("report, page", [(signal_report, "signal.md"), (triggers_report, "triggers.md")])
def test_the_pages_have_the_marks_that_their_study_looks_for(report, page):
    text = (ROOT / "docs" / page).read_text()
    assert text.count(report.START) == text.count(report.END) == 1
    assert text.index(report.START) < text.index(report.END)


def test_a_study_without_runs_says_where_they_come_from(tmp_path):
    command = [sys.executable, "-m", "studies.triggers", "--runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert f"{tmp_path} holds no run: make them with `make results`" in done.stderr


def test_methods_are_compared_at_equal_cost_of_each_kind():
    """GRPO gains 0.1 a point; the method is read against it where as much was spent, also beyond its own steps."""
    baseline = {1: [methods.Point(s, 0.001 * s, s, 20.0 * s, 10.0 * s) for s in (0, 100, 200, 300)]}
    other = {1: [methods.Point(100, 0.5, 100, 5000.0, 1500.0)], 2: [methods.Point(100, 0.9, 100, 1.0, 1.0)]}
    shown = methods.table({"grpo": baseline, "mine": other}, 100).splitlines()
    assert shown[2] == "| `grpo` | 1 | 0.100 |  |  |  |"
    assert shown[3] == (  # seed 2 has no baseline; 0.5 against 0.1 at 100 updates, 0.25 at 5000, 0.15 at 1500
        "| `mine` | 1 | 0.500 | +0.400 (+0.400 to +0.400) | +0.250 (+0.250 to +0.250) | +0.350 (+0.350 to +0.350) |"
    )
    dear = {1: [methods.Point(100, 0.5, 100, 6001.0, 1500.0)]}
    assert "beyond the run" in methods.table({"grpo": baseline, "mine": dear}, 100)
