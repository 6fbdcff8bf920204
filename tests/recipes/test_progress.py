"""How fast and how long: in the terminal, in `npo status`, and in a plan of local files."""

import json
import os
import time

import pytest

from npo_core.config import parse_config
from npo_core.names import EVENTS_FILE, SPEC_FILE
from npo_core.recipes import progress
from npo_core.recipes.status import since
from npo_core.recipes.work import benchmarks, held_out

EVENTS = [{"done": done, "total": 10, "time": 100.0 + 30 * done, "unverified": done % 2} for done in (1, 2, 4, 10)]


def test_lines_tell_seconds_a_step_and_time_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    lines = progress.Lines("train main to 10")
    for event in EVENTS:
        lines.tell(event)
    said = capsys.readouterr().err.splitlines()
    assert said[0].split() == ["train", "main", "to", "10", "1/10", "unverified", "1"]
    assert "2/10  30 s each, 4 min left" in said[1] and "unverified" not in said[1]
    assert "4/10  30 s each, 3 min left" in said[2] and "left" not in said[3]


def test_a_second_try_has_a_pace_of_its_own():
    pace = progress.Pace()
    pace(EVENTS[2])
    assert pace(EVENTS[0]) == "" and pace(EVENTS[1]).startswith("30 s each")


def test_seconds_of_a_stage_that_runs(tmp_path):
    (tmp_path / SPEC_FILE).write_text("{}")
    os.utime(tmp_path / SPEC_FILE, (1000.0, 1000.0))
    assert since(tmp_path / SPEC_FILE, 1060.0) == 60.0
    assert since(tmp_path / SPEC_FILE, None) is None and since(tmp_path / EVENTS_FILE, time.time()) is None


@pytest.mark.parametrize("limit", [None, 5])
def test_a_plan_knows_the_rows_of_local_files(tmp_path, limit):
    for name, count in (("train", 40), ("test", 12), ("more", 7)):
        rows = [{"question": f"{name} {n}?", "answer": str(n)} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {name: {"path": str(tmp_path / f"{name}.jsonl"), "limit": limit} for name in ("train", "test", "more")}
    problems = {"kind": "data", "train": source["train"], "held_out": source["test"]}
    chosen = parse_config({"problems": problems | {"benchmarks": {"more": source["more"]}}, "model": PRETRAINED})
    assert (held_out(chosen.problems), benchmarks(chosen.problems)) == ((12, 7) if limit is None else (5, 5))
    hub = parse_config({"problems": problems | {"held_out": {"path": "openai/gsm8k"}}, "model": PRETRAINED})
    assert held_out(hub.problems) is None


PRETRAINED = {"kind": "pretrained", "path": "some/model"}
