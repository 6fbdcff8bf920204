"""A tiny Qwen3-VL in two processes, each with the images of its own rows: the tokens and losses of one process."""

import pytest

from npo_core.timeline.segments import read_outcomes
from tests.models.conftest import EXECUTION, Run


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_pictures_in_two_processes(tiny, tmp_path, sharding):
    run = Run(tmp_path, tiny("qwen3_vl"))
    base = run.base()
    one = run.train("one", base)
    several = run.train("several", base, execution=EXECUTION.model_copy(update={"processes": 2, "sharding": sharding}))
    assert read_outcomes(run.workspace.store, several.record) == read_outcomes(run.workspace.store, one.record)
    for name in ("loss", "grad_norm"):
        expected = [row[name] for row in one.steps]
        assert [row[name] for row in several.steps] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len({row["loss"] for row in one.steps}) > 2  # there was something to get wrong
