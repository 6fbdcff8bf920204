"""What a checkpoint copies and somebody else writes: the same snapshot, by bytes that nobody reads again."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, modeling_utils

from npo_core.errors import StorageError
from npo_core.timeline.snapshots import file_entry
from npo_core.training import exact
from npo_core.training.trainer import NPOTrainer
from npo_core.training.unwritten import Unwritten


@pytest.fixture
def trained(base_folder):
    """A model and its optimizer after an update."""
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(input_ids=torch.tensor([[2, 3, 4]])).logits.square().mean().backward()
    optimizer.step()
    return model, optimizer


def taken(model, optimizer, folder) -> Unwritten:
    unwritten = Unwritten()
    with unwritten.taking_weights():
        model.save_pretrained(folder)
    unwritten.take_state(folder / "optimizer.pt", optimizer.state_dict())
    return unwritten


def test_what_is_written_later_is_the_state_of_before(trained, tmp_path):
    """Files and digests are those of a checkpoint that was written at once, though training went on in between."""
    model, optimizer = trained
    model.save_pretrained(tmp_path / "now")
    torch.save(optimizer.state_dict(), tmp_path / "now/optimizer.pt")
    unwritten = taken(model, optimizer, tmp_path / "later")
    assert {path.name for path in (tmp_path / "later").iterdir()} == {"config.json", "generation_config.json"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimizer.step()
    written = unwritten.write(tmp_path / "later")
    now = exact.checkpoint_parts(tmp_path / "now").content
    assert written.content == now == exact.checkpoint_parts(tmp_path / "later").content
    weights = [file_entry(tmp_path / name / "model.safetensors") for name in ("now", "later")]
    assert weights[0] == weights[1]
    assert written.files == {"optimizer.pt": file_entry(tmp_path / "later/optimizer.pt")}
    assert exact.checkpoint_parts(tmp_path / "later", written) == exact.Parts(now, written.files)


def test_save_pretrained_writes_again_when_weights_were_taken():
    write = modeling_utils.safe_save_file
    with pytest.raises(ZeroDivisionError), Unwritten().taking_weights():
        raise ZeroDivisionError
    assert modeling_utils.safe_save_file is write


def test_a_full_disk_is_named(trained, tmp_path):
    model, optimizer = trained
    unwritten = Unwritten()
    unwritten.take_state("/dev/full", optimizer.state_dict())
    with pytest.raises(StorageError, match=f"The disk behind {tmp_path} is full"):
        unwritten.write(tmp_path)


def test_training_goes_on_while_a_snapshot_is_written(bench, monkeypatch):
    """The first one is held until two more updates are made; files that were hashed once are not read again."""
    whole, ground = bench(name="at-once").train("main", 8), bench()
    updated, read, write, step = threading.Event(), [], Unwritten.write, NPOTrainer.training_step

    def held(self, folder):
        assert updated.wait(60), "training waits for its snapshot"
        assert not (folder / "model.safetensors").exists() and not (folder / "optimizer.pt").exists()
        return write(self, folder)

    def counted(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        if self.state.global_step == 3:  # the last update before the second snapshot
            updated.set()
        return loss

    monkeypatch.setattr(Unwritten, "write", held)
    monkeypatch.setattr(NPOTrainer, "training_step", counted)
    monkeypatch.setattr(
        "npo_core.timeline.snapshots.file_entry", lambda path: read.append(path.name) or file_entry(path)
    )
    segment = ground.train("main", 8)
    assert (segment.snapshots, segment.steps) == (whole.snapshots, whole.steps)
    assert read.count("model.safetensors") == 4 + 1  # and the base's, which is checked before it is loaded
    assert not {"optimizer.pt", exact.CURSOR_FILE} & set(read)
    files = ground.workspace.timeline.snapshots.get(segment.end).files
    assert {"model.safetensors", "optimizer.pt"} <= set(files)
