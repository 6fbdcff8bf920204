"""Adapters of a vision-language model, through training on pictures."""

import numpy as np
import pytest
from safetensors import safe_open

from npo_core.engines.transformers import TransformersEngine
from npo_core.models.load import merged_folder
from tests.models.test_models_pipeline import problems_seen

LEARNING = {"learning_rate": 1e-2, "max_grad_norm": 10.0}


@pytest.mark.parametrize("vision", [False, True])
def test_the_language_model_alone_is_adapted_unless_asked(run, vision):
    run = run("qwen3_vl", lora={"rank": 2, "vision": vision})
    segment = run.train("scout", run.base(), until=2).record
    with safe_open(run.workspace.snapshot_folder(segment.end) / "adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert all(".language_model." in name or ".visual." in name for name in names)
    assert any(".visual." in name for name in names) == vision


def test_adapters_go_on_exactly(run):
    """From snapshots inside a window and with a KL, as without adapters."""
    run = run("qwen3_vl", lora={"rank": 2})
    changes = {**LEARNING, "updates_per_batch": 2, "snapshot_every": 1, "kl_coef": 0.1, "gradient_checkpointing": True}
    whole = run.train("whole", run.base(), until=4, **changes)
    half = run.train("half", whole.record.snapshots[1], until=4, **changes)
    assert half.record.snapshots == {step: whole.record.snapshots[step] for step in (2, 3, 4)}


def test_merged_adapters_answer_alike(run, tmp_path):
    run = run("qwen3_vl", lora={"rank": 2})
    base = run.base()
    end = run.workspace.snapshot_folder(run.train("scout", base, **LEARNING).record.end)
    problems = problems_seen(run, base)
    completions = [[40, 41, 42]] * len(problems)
    folders = end, merged_folder(end, tmp_path / "merged"), run.workspace.snapshot_folder(base)
    apart, merged, without = (np.array(TransformersEngine(f).score(problems, completions)) for f in folders)
    np.testing.assert_allclose(merged, apart, rtol=0, atol=1e-4)
    assert abs(without - apart).max() > 1e-2
