"""`npo samples`: logged completions in a terminal, as JSON, and as one page in which what a model wrote is text."""

from __future__ import annotations

import base64
import json
import math
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.problems import Problem, ProblemSet
from npo_core.problems.images import digest
from npo_core.problems.problem import ImageRef
from npo_core.reporting.samples import read_groups, samples_markdown
from npo_core.reporting.samples_page import samples_page
from npo_core.stages.problems import keep
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import Mark, write_part
from tests.reporting.small_runs import add_stage, new_workspace, step_row

EVIL = "<script>alert(1)</script> ``` | \x1b[31m & more"
PROMPTS = [f"{number:016x}" for number in range(4)]


def sample(step: int, group: int, place: int, rate: float, kind: str = "policy", **changes) -> dict:
    right = kind != "policy" or place < round(2 * rate)
    values = {
        "step": step,
        "group": group,
        "pass_rate": rate,
        "sample": place,
        "prompt_id": PROMPTS[group],
        "prompt": f"prompt {group} {EVIL}",
        "completion": f"answer {step} {group} {place} {EVIL}",
        "tokens": 3,
        "verdict": "correct" if right else "wrong",
        "reward": float(right),
        "advantage": 1.0 if right else -1.0,
        "kind": kind,
        "source": "" if kind == "policy" else "past-successes",
    }
    return values | changes


def batch(step: int) -> list[dict]:
    """A rescued group, a mixed one, a failed one, and a replayed success."""
    return [
        sample(step, 0, 0, 0.0),
        sample(step, 0, 1, 0.0, "injected"),
        sample(step, 1, 0, 0.5),
        sample(step, 1, 1, 0.5),
        sample(step, 2, 0, 0.0, verdict="unparsable"),
        sample(step, 2, 1, 0.0),
        sample(step, 3, 0, math.nan, "replayed", advantage=math.nan, source="replay"),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Workspace:
    """Two updates of an unfinished segment, each with a part, of which the second has no mark yet in a third."""
    workspace = new_workspace(tmp_path / "run")
    (weights := tmp_path / "weights").mkdir()
    base = workspace.timeline.snapshots.add(weights, content={"weights": "00"}, step=0, info={}).id
    workspace.timeline.add_branch(Branch(name="main", parent=base, parent_step=0, reason="GRPO"))
    add_stage(workspace, "train", "half", {"branch": "main", "start": base, "until": 8}, None)
    for step in (1, 2):
        write_part(workspace.store, "half", Mark(step, f"main{step}", 1.0), [step_row(step, False)], [], batch(step))
    return workspace


def npo(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["samples", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_groups_are_found_by_step_prompt_and_outcome(run):
    def asked(**of) -> list[tuple[int, int]]:
        return [(group.step, group.group) for group in read_groups(run, **of)]

    assert asked() == [(step, group) for step in (1, 2) for group in range(4)]
    assert asked(step=2) == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert asked(flags=["failed"]) == [(1, 0), (1, 2), (2, 0), (2, 2)]
    assert asked(flags=["rescued"]) == asked(flags=["injected"]) == [(1, 0), (2, 0)]
    assert asked(step=1, flags=["replayed"]) == [(1, 3)]
    assert asked(prompt=PROMPTS[1]) == [(1, 1), (2, 1)]


def test_the_terminal_marks_what_was_injected(run):
    text = npo(run.uri, "--step", 2, "--rescued")
    assert "main, step 2, prompt 0000000000000000: pass rate 0.00, rescued from past-successes" in text
    assert "> [injected: past-successes] correct, reward 1, advantage +1" in text
    assert "  [policy] wrong, reward 0, advantage -1" in text
    assert "answer 2 0 1 <script>" in text and "\\x1b[31m" in text and "\x1b" not in text
    assert "step 1" not in text
    assert "The newest 5 of 8 groups" in npo(run.uri)
    assert npo(run.uri, "--limit", 1).count("prompt id") == 0
    found = json.loads(npo(run.uri, "--json", "--limit", 1))
    assert found[0]["flags"] == ["replayed"] and found[0]["samples"][0]["advantage"] is None


def test_what_is_not_there_is_said(run, tmp_path):
    assert "there are 8 of the steps 1 to 2" in npo(run.uri, "--step", 7, code=65)
    quiet = new_workspace(tmp_path / "quiet")
    assert "training.log_completions=8" in npo(quiet.uri, code=65)
    assert "cannot be written" in npo(run.uri, "--html", tmp_path / "no/such.html", code=64)


def test_the_page_is_one_file_in_which_text_is_text(run, tmp_path):
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    refs = []
    for name, colour in colours.items():
        Image.new("RGB", (900, 30), colour).save(file := tmp_path / f"{name}.png")
        content = file.read_bytes()
        refs.append(ImageRef(digest(content), len(content), 30, 900, str(file)))
    problems = [Problem(PROMPTS[n], "p", "a", 0, images=(ref,)) for n, ref in enumerate(refs)]
    keep(
        ProblemSet(problems, [], lambda asked: [], report={"train": {}, "held_out": {}}), run.store.child("problems/k")
    )
    (tmp_path / "blue.png").unlink()  # gone since
    npo(run.uri, "--html", out := tmp_path / "page.html")
    page = out.read_text()
    assert page.count("<article") == 8 and page.count("<script>") == 1 and "<script>alert" not in page
    assert "answer 2 0 1 &lt;script&gt;" in page and "\x1b" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "http" not in page.replace("http-equiv", "")
    pictures = re.findall(r'<img alt="" src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2  # of one prompt, at two steps
    image = Image.open(BytesIO(base64.b64decode(pictures[0])))
    assert image.size == (480, 16) and image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert "blue.png is gone" in page


def test_an_artifact_has_no_markup_of_a_model(run):
    text = samples_markdown(read_groups(run, step=2, flags=["rescued"]))
    assert "> [injected: past-successes] correct, reward 1" in text
    assert text.split("\n\n")[1].startswith("````text") and text.endswith("````")


def test_pictures_beyond_what_a_page_holds_are_left_out(run, monkeypatch):
    monkeypatch.setattr("npo_core.reporting.samples_page.MOST_PICTURES", 400)
    sink = BytesIO()
    Image.new("RGB", (4, 4)).save(sink, "png")
    page = samples_page(read_groups(run), "t", lambda id_: [sink.getvalue()])
    assert 0 < page.count("<img") < 8 and "left out" in page
