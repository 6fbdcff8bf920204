"""The studies' pages: what is generated goes between the marks of the documents, and nothing else changes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from studies import mechanism, methods, methods_page, paired, results_report, signal_report, triggers_report
from studies.arms import configure
from studies.methods import Point
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
    before = (docs / "results-published.md").read_text()
    results_report.write(group, made_up(group), docs)
    after = (docs / "results-published.md").read_text()
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


def straight(rate: float, steps: int, tokens: float = 10.0) -> list[Point]:
    """A curve that gains `rate` an update, evaluated every 60."""
    return [Point(s, rate * s, s, 2 * tokens * s, tokens * s) for s in range(0, steps + 1, 60)]


def test_methods_are_compared_at_equal_cost_of_each_kind():
    """The arm generates twice as much an update: at equal tokens it meets the baseline's double update."""
    seeds = {1: 0.0010, 2: 0.0011, 3: 0.0012, 4: 0.0013}
    baseline = {seed: straight(rate, 540) for seed, rate in seeds.items()}
    arm = {seed: straight(2 * rate, 180, tokens=20.0) for seed, rate in seeds.items()} | {9: straight(0.0, 180)}
    found = {cost: paired.compare(arm, baseline, cost, 180) for cost in paired.COSTS}
    assert found["updates"].seeds == [1, 2, 3, 4]  # seed 9 has no baseline
    assert found["updates"].mean == pytest.approx(2 * found["updates"].baseline)
    estimate, low, high = found["updates"].difference
    assert estimate == pytest.approx(180 * 0.00115)
    assert low < estimate < high
    assert found["updates"].better == 1.0
    for cost in ("flops", "tokens"):
        assert found[cost].difference == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    dear = {seed: straight(rate, 180, tokens=31.0) for seed, rate in seeds.items()}
    assert paired.compare(dear, baseline, "tokens", 180) is None  # the baseline was not run for as long


def test_the_interval_is_scipys_and_needs_three_values():
    assert paired.interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1, 0.1))
    _, low, high = paired.interval([0.0, 0.1])
    assert low != low and high != high
    mean, low, high = paired.interval([0.0, 0.1, 0.2, 0.3, 0.1, 0.2])
    assert 0.0 < low < mean < high < 0.3


def test_a_threshold_is_read_between_evaluations_and_may_never_be_reached():
    assert paired.reached(straight(0.001, 540), 0.21) == pytest.approx(210)
    assert paired.reached(straight(0.001, 540), 0.6) is None
    assert methods_page.median([100.0, None, 200.0]) == "200 (1 of 3 never)"
    assert methods_page.median([100.0, None, None]) == "not reached (2 of 3 never)"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--only-report"], "holds no finished run of grpo, so the page stays as it is"),
        (["--drop-runs", "--arms", "grpo", "luffy"], "--drop-runs deletes what luffy learns from"),
    ],
)
def test_a_study_that_would_lose_something_is_refused(asked, sentence, tmp_path, monkeypatch, capsys):
    before = (ROOT / "docs/results.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["methods", *asked, "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        methods.main()
    assert sentence in capsys.readouterr().err
    assert (ROOT / "docs/results.json").read_bytes() == before and not list(tmp_path.iterdir())


def test_the_study_is_written_between_its_marks(docs):
    before = (docs / "results.md").read_text()
    arms = {
        "grpo": {seed: straight(0.001, 540) for seed in (1, 2, 3)},
        "pool-rescue": {seed: straight(0.002 + seed / 10000, 300) for seed in (1, 2, 3)},
    }
    methods_page.write({"E": arms}, docs)
    after = (docs / "results.md").read_text()
    part = after.split(methods_page.BEGIN)[1].split(methods_page.END)[0]
    assert "| `pool-rescue` | 3 | 0.396 |" in part and "nan" not in part
    assert after.replace(part, before.split(methods_page.BEGIN)[1].split(methods_page.END)[0]) == before
    assert after.count("### Task") == before.count("### Task")  # other tasks ran elsewhere: their tables stay
    records = [r for r in json.loads((docs / "results.json").read_text())["comparisons"] if r["task"] == "E"]
    assert {r["at"] for r in records} == {"equal updates", "equal FLOPs", "equal tokens"}
    assert all(r["arm"] == "pool-rescue" and r["seeds"] == 3 for r in records)
    assert (docs / "pictures/study-e.png").stat().st_size > 10_000


def test_records_and_points_of_other_tasks_stay(docs):
    arms = {name: {seed: straight(0.001 * seed, 540) for seed in (1, 2)} for name in ("grpo", "grpo-4")}
    others = [r for r in json.loads((docs / "results.json").read_text())["comparisons"] if r["task"] != "E"]
    methods_page.write({"E": arms}, docs)
    methods_page.write({"B": arms}, docs)
    left = json.loads((docs / "results.json").read_text())["comparisons"]
    assert [r for r in left if r["task"] == "G"] == [r for r in others if r["task"] == "G"] != []
    assert {r["arm"] for r in left if r["task"] in "EB"} == {"grpo-4"}
    header, *rows = (docs / "results-points.csv").read_text().splitlines()
    assert tuple(header.split(",")) == methods_page.HEADER
    assert sum(row.startswith("E,grpo-4,2,") for row in rows) == len(arms["grpo"][1])
    assert {row[0] for row in rows} >= {"B", "E"}


def test_seconds_are_compared_where_every_run_recorded_them():
    arms = {name: {seed: straight(0.001, 180) for seed in (1, 2, 3)} for name in ("grpo", "other")}
    assert list(paired.known_costs(arms, "grpo")) == ["updates", "flops", "tokens"]
    timed = {
        name: {seed: [p._replace(seconds=2.0 * p.step) for p in points] for seed, points in of.items()}
        for name, of in arms.items()
    }
    assert list(paired.known_costs(timed, "grpo")) == ["updates", "flops", "tokens", "seconds"]
    assert "equal seconds" in methods_page.table(timed, "grpo", 180) and "nan" not in methods_page.table(
        timed, "grpo", 180
    )


def test_seconds_of_some_seeds_are_compared_by_these():
    timed = {seed: [p._replace(seconds=2.0 * p.step) for p in straight(0.001, 180)] for seed in (1, 2, 3)}
    arms = {"grpo": timed | {4: straight(0.001, 180)}, "other": timed | {4: straight(0.002, 180)}, "third": timed}
    arms["third"] = {4: straight(0.001, 180)}
    assert "seconds" in paired.known_costs(arms, "grpo")
    assert "seconds" not in paired.known_costs(arms | {"grpo": {4: straight(0.001, 180)}, "third": timed}, "grpo")
    assert paired.compare(arms["other"], arms["grpo"], "seconds", 180).seeds == [1, 2, 3]
    assert paired.compare(arms["other"], arms["grpo"], "tokens", 180).seeds == [1, 2, 3, 4]
    assert f"| {methods_page.UNKNOWN} |" in methods_page.table(arms, "grpo", 180)


def test_the_order_by_step_is_another_than_that_at_equal_cost():
    """`early` is ahead by step, and threw 60 updates away; `plain` is ahead at what it cost."""
    seeds, thrown = (1, 2, 3), 60
    arms = {
        "grpo": {seed: straight(0.001, 540) for seed in seeds},
        "remind": {seed: straight(0.0011, 300) for seed in seeds},
        "npo-early": {
            seed: [p._replace(updates=p.updates + thrown, tokens=p.tokens + 600) for p in straight(0.0012, 300)]
            for seed in seeds
        },
    }
    first, second = methods_page.order(arms, 180).splitlines()[2:]
    assert first.startswith("| `npo-early` | 3 | 0.216 | **+0.036 (+0.036 to +0.036)** | **-0.024")
    assert second.startswith("| `remind` | 3 | 0.198 | **+0.018 (+0.018 to +0.018)** | **+0.018")
    assert methods_page.order(arms, 180) in methods_page.section(arms, "E")


def test_what_autonpo_decided_is_counted_a_run(tmp_path):
    made = {"step": 60, "intervene": True, "delta": 40, "pool_q": 0.3, "brought": -0.02}
    runs = [[made, made | {"delta": 0, "brought": None}], [made | {"intervene": False, "delta": None, "brought": None}]]
    (tmp_path / "points").mkdir()
    for seed, decisions in enumerate(runs):
        (tmp_path / f"points/E-auto-npo-s{seed}.json").write_text(json.dumps({"decisions": decisions}))
    decided = methods.read_decisions(tmp_path)["E"]
    assert decided["auto-npo"] == dict(enumerate(runs))
    learns = {0: straight(0.001, 540), 1: straight(0.0005, 540)}  # 0.06 and 0.03 in 60 updates
    table = methods_page.decisions_table({"auto-npo": {1: runs[1]}}, learns)
    assert table.endswith("| 1.0 | 1.0 | 0.0 | 0.0 | 0.0 |  | 0 of 1 |")
    row = methods_page.decisions_table(decided, learns).splitlines()[-1]
    assert row == "| `auto-npo` | 2 | 1.5 | 0.5 | 0.5 | 0.5 | 20.0 | -0.020, 1 of 1 lost | 1 of 2 |"
    assert methods_page.decisions_table({"auto-npo": {2: []}}, learns).endswith("| 0.0 |  |  |")


def test_every_arm_is_drawn_and_one_alone_is_no_comparison(docs):
    seeds = {1: straight(0.001, 540), 2: straight(0.0012, 540)}
    points = docs / "results-points.csv"
    before = [line for line in points.read_text().splitlines() if line.startswith("B,")]
    methods_page.write({"E": dict.fromkeys(methods.ARMS, seeds), "B": {"grpo": seeds}}, docs)
    assert all(f"| `{name}` | 2 |" in (docs / "results.md").read_text() for name in methods.ARMS)
    assert [line for line in points.read_text().splitlines() if line.startswith("B,")] == before


def test_the_pretrained_model_is_compared_at_its_own_lengths(tmp_path):
    lengths = {arm: configure("S", arm, 1, tmp_path).training.steps for arm in ("grpo", "pool-rescue-replay-8")}
    assert lengths == {"grpo": 240, "pool-rescue-replay-8": 120}
    assert methods_page.headline_step("S") == 120 and methods_page.headline_step("E") == 180
    arms = {name: {seed: straight(0.001 * seed, steps) for seed in (1, 2, 3)} for name, steps in lengths.items()}
    assert "After 120 updates of the final branch" in methods_page.section(arms, "S")
    assert "180" not in methods_page.section(arms, "S")


def test_a_rescue_is_priced_by_the_rounds_that_it_took():
    """Rounds of 8: one prompt is solved in the first, one in the third, one in none of the four."""
    right = np.zeros((3, mechanism.SAMPLES), bool)
    right[0, 5] = right[1, 17] = True
    lengths = np.full(right.shape, 6)
    assert mechanism.price(right, lengths) == (8 + 24 + 32) * 6 / 2
    assert mechanism.price(right[2:], lengths[2:]) == float("inf")


def test_what_was_solved_is_lost_and_regained():
    solved = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)  # [snapshot, problem]
    lost, regained = mechanism.changes(solved)
    assert lost == pytest.approx([0, 1 / 3, 0]) and regained == pytest.approx([0, 0, 1 / 3])
