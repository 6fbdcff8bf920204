"""The heat map of prompts: only those that come again, what was forgotten and rescued, bounded, always the same."""

from __future__ import annotations

import math
from io import BytesIO

from PIL import Image

from npo_core.reporting.heat import COLUMNS, PROMPTS, heat_png, read_visits, told
from npo_core.reporting.report import write_report
from npo_core.reporting.run_data import load
from npo_core.timeline.segments import Mark, write_part
from tests.reporting.small_runs import make_grpo, snapshot, step_row

SEEN = {  # step -> prompt, pass rate, injected
    1: [("a", 1.0, False), ("b", 0.0, True), ("c", 0.5, False)],
    2: [("a", 0.0, False), ("d", 0.0, False)],
    3: [("b", 0.25, False), ("a", 0.0, True), ("e", math.nan, False)],
    4: [("e", math.nan, False), ("b", 0.0, False)],
}


def with_outcomes(workspace, seen: dict):
    """The run `main` 0-8 with outcomes, two updates a part."""
    for end in range(2, 9, 2):
        rows = [
            {"step": step, "prompt_id": prompt, "pass_rate": rate, "injected": injected, "tokens": "", "source": ""}
            for step in (end - 1, end)
            for prompt, rate, injected in seen.get(step, [])
        ]
        steps = [step_row(step, False) for step in (end - 1, end)]
        write_part(workspace.store, "mainfrom0", Mark(end, snapshot("main", end), 0.5), steps, rows)
    return workspace


def test_what_was_forgotten_and_rescued(tmp_path):
    run = with_outcomes(make_grpo(tmp_path / "run"), SEEN)
    visits = read_visits(run.store, load(run).path)
    assert set(visits.by_prompt) == {"a", "b"} and visits.asked == 4
    flags = {p: [(v.step, v.forgotten, v.rescued) for v in of] for p, of in visits.by_prompt.items()}
    assert flags == {
        "a": [(1, False, False), (2, True, False), (3, True, True)],
        "b": [(1, False, True), (3, False, False), (4, False, False)],  # 0.25 was never solved
    }
    assert visits.chosen() == ["a", "b"]
    assert "2 of 4 prompts came more than once. 1 of these were forgotten" in told(visits)
    assert "2 were rescued, all wrong and given a trajectory; 1 of them had a right completion" in told(visits)


def test_the_report_has_the_picture_where_prompts_come_again(tmp_path):
    run = with_outcomes(make_grpo(tmp_path / "run"), SEEN)
    write_report(run)
    text, picture = (run.store.read_bytes(f"report/{name}") for name in ("report.md", "prompts.png"))
    assert b"### Prompts that came again" in text and b"](prompts.png)" in text
    assert Image.open(BytesIO(picture)).width == 1200
    write_report(run)
    assert run.store.read_bytes("report/prompts.png") == picture
    once = with_outcomes(make_grpo(tmp_path / "once"), {1: SEEN[1]})
    write_report(once)
    assert not once.store.exists("report/prompts.png") and b"came again" not in once.store.read_bytes(
        "report/report.md"
    )


def test_the_picture_is_bounded(tmp_path):
    many = {step: [(f"{n:03d}", n % 3 / 2, False) for n in range(3 * PROMPTS)] for step in (1, 8)}
    run = with_outcomes(make_grpo(tmp_path / "run"), many)
    visits = read_visits(run.store, load(run).path)
    assert len(visits.by_prompt) == 3 * PROMPTS and len(visits.chosen()) == PROMPTS
    assert Image.open(BytesIO(heat_png(visits))).size[1] < 1200
    assert COLUMNS == 120
