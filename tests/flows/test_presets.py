"""Every preset from start to report, shrunk: the same classes, tiny dimensions; made-up rows for those at a hub.

The one for smoke tests runs as it is in tests/product/test_wheel.py.
"""

from pathlib import Path

import pytest

from npo_core.config import load_config
from npo_core.errors import ConfigError
from npo_core.models.load import load_model
from npo_core.problems.problem import ImageRef
from npo_core.stages.prove import prove_replay
from npo_core.stages.shrink import shrink
from npo_core.timeline.segments import read_outcomes, read_steps

PRESETS = sorted((Path(__file__).parents[2] / "deployments/configs").glob("*.yaml"))
CLASSES = {
    "qwen3-0.6b-gsm8k-1gpu": "Qwen3ForCausalLM",
    "qwen3-vl-8b-lora-1gpu": "PeftModelForCausalLM",
    "qwen3-vl-8b-paper": "Qwen3VLForConditionalGeneration",
}


THOROUGH = ("qwen3-vl-8b-lora-1gpu",)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.thorough] if path.stem in THOROUGH else [])
        for path in PRESETS
        if path.stem not in ("smoke", "pool-rescue")
    ],
)
def test_a_preset_runs_from_start_to_report(path, start, local, tmp_path):
    """The one of several processes and pictures with Prefect; forms of the others are followed in tests/browser."""
    full = load_config(path)
    config = shrink(full)
    follow = start if full.execution.processes > 1 else local
    run = follow("early-bootstrap", tmp_path / "run", config)
    segments = run.timeline.segments()
    (guided,) = (segment for segment in segments if segment.cache is not None)
    assert sum(row["injected"] for row in read_outcomes(run.store, guided).to_pylist()) > 0
    assert [s.t1 for s in segments if s.branch == "replay"] == [4, 8]
    last = run.store.read_json("report/report.json")["evaluations"][-1]
    assert last["step"] == 8 and len(last.get("benchmarks", {})) == len(getattr(config.problems, "benchmarks", {}))
    if path.stem in CLASSES:
        assert {*config.problems.sources} == {*full.problems.sources}
        assert type(load_model(run.snapshot_folder(guided.end))).__name__ == CLASSES[path.stem]
        proof = prove_replay(run.uri)
        assert proof["equal"] and proof["steps"] == 4, proof["compared"]


def test_the_variant_that_pays_asks_again_and_replays(local, tmp_path):
    run = local("grpo", tmp_path / "run", shrink(load_config(PRESETS[0].with_name("pool-rescue.yaml"))))
    steps = read_steps(run.store, run.timeline.segments()[0])
    assert steps["tokens_extra"].to_numpy().sum() > 0 and steps["rows_replayed"].to_numpy().sum() > 0


def test_pictures_are_seen(environment):
    from npo_core.models.load import load_processor
    from npo_core.problems.load import load_problems

    (path,) = (path for path in PRESETS if path.stem == "qwen3-vl-8b-paper")
    config = shrink(load_config(path))
    problems = load_problems(config.problems, processor=load_processor(config.model.path))
    assert all(len(p.images) == 1 and isinstance(p.images[0], ImageRef) for p in [*problems.train, *problems.held_out])
    assert {len(p.images) for p in problems.benchmarks["mmmu-pro"]} == {7}


def test_a_model_of_unknown_architecture_is_refused(environment):
    path = next(path for path in PRESETS if path.stem in CLASSES)
    with pytest.raises(ConfigError, match="model.path = nobody/nothing cannot be shrunk"):
        shrink(load_config(path, {"model.path": "nobody/nothing"}))
