"""A tiny Qwen3-VL in two processes, each with the images of its own rows: the tokens and losses of one process."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from npo_core.config import Execution, Guidance, Injection, Mix
from npo_core.models.tiny import make_tiny
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_outcomes
from tests.models.conftest import EXECUTION, Run
from tests.models.pictures import picture_rows

MIXED = {  # every part that draws prompts, rows or completions beside a batch's own
    "injection": Injection(gate="every", place="append", importance_sampling="guide"),
    "guidance": Guidance(),
    "mix": Mix(
        store={"max_pass_rate": 1, "drop_above": 1},
        sources=[{"kind": "past-successes"}, {"kind": "extra-samples", "chunks": 2}],
        replay={"rows": 3, "max_pass_rate": 1, "ratio": "clip"},
        prompts=[
            {"kind": "mistake-pool", "share": 0.25, "max_pass_rate": 0.9, "leave_above": 1, "without_success": False},
            {"kind": "dynamic-sampling", "rounds": 1},
        ],
    ),
}


def two(sharding: str) -> Execution:
    return EXECUTION.model_copy(update={"processes": 2, "sharding": sharding})


def assert_one(run: Run, one, several) -> None:
    """Tokens and verdicts are the same; losses, gradients and weights are close."""
    assert read_outcomes(run.workspace.store, several.record) == read_outcomes(run.workspace.store, one.record)
    for name in ("loss", "grad_norm"):
        expected = [row[name] for row in one.steps]
        assert [row[name] for row in several.steps] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len({row["loss"] for row in one.steps}) > 2  # there was something to get wrong
    ends = [run.workspace.snapshot_folder(segment.record.end) / "model.safetensors" for segment in (one, several)]
    torch.testing.assert_close(*map(load_file, ends), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_pictures_are_mixed_in_two_processes(tmp_path, sharding):
    make_tiny("qwen3_vl", tmp_path / "model", ends=0.1)  # whatever ends is right here
    run = Run(tmp_path, tmp_path / "model")
    base, changes = run.base(), {"micro_batch": 4, "mixed": MIXED, "until": 6}
    one = run.train("one", base, **changes)
    for name in ("rows_replayed", "prompts_chosen", "tokens_extra", "groups_injected"):
        assert sum(row[name] or 0 for row in one.steps) > 0, name
    several = run.train("several", base, execution=two(sharding), **changes)
    assert_one(run, one, several)


def test_pictures_are_mixed_inside_a_window_exactly(tmp_path):
    """Old log-probabilities of rows beside the batch are computed with their pictures."""
    make_tiny("qwen3_vl", tmp_path / "model", ends=0.1)
    run = Run(tmp_path, tmp_path / "model")
    changes = {"micro_batch": 4, "mixed": MIXED, "until": 6, "updates_per_batch": 2, "snapshot_every": 1}
    whole = run.train("whole", run.base(), **changes)
    assert sum(row["rows_replayed"] or 0 for row in whole.steps) > 0
    half = run.train("half", whole.record.snapshots[3], **changes)
    assert half.record.snapshots == {step: whole.record.snapshots[step] for step in (4, 5, 6)}


def half_without(folder):
    """Every other row has no picture, so that one process has pictures where the other has none."""
    rows = picture_rows(folder, 12)
    return [row | {"image": row["image"] if number % 2 else []} for number, row in enumerate(rows[2:])]


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_one_process_has_pictures_and_the_other_none(tiny, tmp_path, sharding, again):
    """Parts of one group each; activations kept, and computed again in the backward pass."""
    run = Run(tmp_path, tiny("qwen3_vl"), half_without)
    base, changes = run.base(), {"micro_batch": 4, "gradient_checkpointing": again}
    one = run.train("one", base, **changes)
    several = run.train("several", base, execution=two(sharding), **changes)
    assert_one(run, one, several)


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_pictures_in_two_processes(tiny, tmp_path, sharding):
    run = Run(tmp_path, tiny("qwen3_vl"))
    base = run.base()
    one = run.train("one", base)
    several = run.train("several", base, execution=two(sharding))
    assert_one(run, one, several)


def test_guidance_with_pictures_in_two_processes(tiny, tmp_path):
    """Chunks go to the processes with their pictures, and the judges there say the same."""
    (tmp_path / "one").mkdir()
    run = Run(tmp_path / "one", tiny("qwen3_vl"))
    base, chunks = run.base(), {"chunk_prompts": 2, "keep": "closest", "stop_at_first_correct": False}
    scout = run.train("scout", base)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one = run.guide(scout, base, **chunks)
    run.workspace = Workspace(tmp_path / "two/workspace")
    run.common["workspace"] = run.workspace.uri
    two = run.guide(scout, base, EXECUTION.model_copy(update={"generation_processes": 2}), **chunks)
    assert (two.cache, two.rows) == (one.cache, one.rows) and one.rows > 0
