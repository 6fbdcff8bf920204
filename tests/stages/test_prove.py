"""Proofs of segments that need more than the snapshot they start from."""

from npo_core.config import parse_config
from npo_core.stages.launch import run_stage
from npo_core.stages.prove import prove_replay
from npo_core.timeline import Branch
from tests.stages.conftest import SETTINGS, Run


def test_a_segment_with_a_kl_that_starts_later(tmp_path):
    """The KL is to the base model, which is not where the segment starts."""
    run = Run(tmp_path / "run", parse_config(SETTINGS | {"training": {**SETTINGS["training"], "kl_coef": 0.1}}), {})
    run.found["base"] = run_stage(run.base()).result.snapshot
    run.workspace.timeline.add_branch(Branch(name="scout", parent=run.found["base"], parent_step=0, reason="test"))
    run_stage(run.train("scout", until=4))
    (first,) = run.workspace.timeline.segments()
    run.workspace.timeline.add_branch(Branch(name="later", parent=first.end, parent_step=4, reason="test"))
    segment = run_stage(run.train("later", start=first.end, until=8)).result.segment
    assert prove_replay(run.workspace.uri, segment)["equal"]
