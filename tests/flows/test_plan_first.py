"""Every flow plans first: what cannot fit is refused before anything is written, made or bound."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from npo_core.cli.plan import plan_data
from npo_core.config import Plateau
from npo_core.errors import ConfigError
from npo_core.planning import look
from npo_core.timeline.segments import read_steps

ROOT = Path(__file__).parents[2]
FLOWS = ("grpo", "early-bootstrap", "auto-npo", "plateau-breakthrough")


@pytest.mark.parametrize("flow", FLOWS)
def test_a_run_that_cannot_fit_is_refused_before_it_begins(flow, start, tmp_path, monkeypatch):
    monkeypatch.setattr("npo_core.planning.plan.look", lambda *asked: replace(look(*asked), memory=1e8))
    settings = {"plateau": Plateau()} if flow == "plateau-breakthrough" else {}
    with pytest.raises(ConfigError, match=r"does not fit.*\n.*Stage train needs .* and there are 96 MiB"):
        start(flow, tmp_path / "run", {}, **settings)
    assert not (tmp_path / "run").exists()


def test_a_run_tells_how_long_completions_are(auto):
    no_gpu = {"gpu": None, "gpu_memory": None}
    data = plan_data(auto.config(), "grpo", auto.uri, machine=no_gpu, tokens_per_second=100.0, completion_tokens=None)
    parts = [read_steps(auto.store, segment) for segment in auto.timeline.segments()]
    rows = [length for part in parts for length in part["completion_length"].to_pylist()]
    longest = auto.config().training.max_completion_tokens
    assert (
        0 < mean(rows) <= data["stages"][0]["tokens"] / data["stages"][0]["completions"] < mean(rows) + 1 <= longest + 1
    )


def test_the_check_takes_no_torch_and_hardly_any_time(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from npo_core.config import RunConfig
from npo_core.planning import look, make_plan, model_size
started, config = time.process_time(), RunConfig()
make_plan(config, model_size(config), look(config, Path({str(tmp_path)!r})), "auto-npo")
assert time.process_time() - started < 2 and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
