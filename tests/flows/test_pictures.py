"""Early bootstrapping of a tiny Qwen3-VL on problems with pictures, as a flow: processes, artifacts, report, proof."""

import pytest

from npo_core.models.tiny import make_tiny
from npo_core.stages.prove import prove_replay
from npo_core.timeline.segments import read_outcomes
from tests.models.pictures import ANY_END, picture_rows, write_rows


@pytest.fixture(scope="module")
def pictured(start, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("pictured")
    make_tiny("qwen3_vl", folder / "model")
    source = {"path": write_rows(folder, picture_rows(folder, 16)), "columns": {"images": ["image"]}}
    changes = {
        "name": "pictures",
        "problems": {"kind": "data", "train": source, "held_out_rows": 4, "answer_pattern": ANY_END},
        "model": {"kind": "pretrained", "path": str(folder / "model"), "dtype": "float32"},
        "training.steps": 8,
        "training.max_completion_tokens": 8,
        "bootstrap.scout_steps": 4,
        "evaluation.every": 4,
        "guidance": {"samples": 32, "samples_per_round": 16, "chunk_prompts": 16, "skip_passed": False},
    }
    return start("early-bootstrap", folder / "run", changes)


def test_pictures_go_through_the_flow(pictured):
    segments = pictured.timeline.segments()
    (replay,) = (s for s in segments if s.cache is not None)
    assert sum(row["injected"] for row in read_outcomes(pictured.store, replay).to_pylist()) > 0
    assert [s.t1 for s in segments if s.branch == "replay"][-1] == 8
    (key,) = pictured.store.list("problems")
    report = pictured.store.read_json(f"problems/{key}/problems.json")
    assert report["train"]["images"] + report["held_out"]["images"] == 16
    assert pictured.store.exists("report/report.md")


def test_a_replay_with_pictures_is_exact(pictured):
    proof = prove_replay(pictured.uri)
    assert proof["equal"] and proof["steps"] == 4, proof["compared"]
