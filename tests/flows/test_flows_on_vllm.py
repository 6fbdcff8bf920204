"""AutoNPO from its start to its report where guidance, probe and evaluations come from vLLM."""

import pytest

from npo_core.control.records import Decisions
from npo_core.stages.prove import prove_replay
from npo_core.timeline.segments import read_outcomes

CHANGES = {
    "model.width": 64,  # vLLM's attention on a CPU knows heads of 32
    "auto.max_interventions": 1,
    "engine.kind": "vllm",
}


@pytest.mark.thorough
def test_the_whole_flow(local, vllm_python, tmp_path):
    run = local("auto-npo", tmp_path / "run", CHANGES | {"engine.python": vllm_python})
    made = [decision for decision in Decisions(run.store).all() if decision.intervene]
    assert made and made[-1].candidates  # a probe was made, and one of its candidates chosen
    guided = [segment for segment in run.timeline.segments() if segment.cache is not None]
    [cache] = {segment.cache for segment in guided}
    assert run.open_cache(cache, None, {}).info.sampling["engine"] == "vllm"
    assert any(row["injected"] for s in guided for row in read_outcomes(run.store, s).to_pylist())
    report = run.store.read_json("report/report.json")
    assert [score["step"] for score in report["evaluations"]][-1] == run.config().training.steps
    assert prove_replay(run.uri, steps=4)["equal"]
