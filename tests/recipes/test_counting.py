"""What is counted is what a run does: of a finished one nothing is left, of one that is on its way just the rest."""

import subprocess
import sys

import pytest

from npo_core.config import Plateau
from npo_core.errors import ConfigError
from npo_core.names import RECIPE_NAMES, STARTED_FILE
from npo_core.recipes.counting import count
from npo_core.recipes.status import status, to_do
from npo_core.reporting.costs import label, snapshot_steps
from npo_core.reporting.records import read_stages
from tests.recipes.conftest import tiny

LATE = Plateau(rollback_step=8, guide_step=16)


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_of_a_finished_run_nothing_is_left(runs, recipe):
    data = status(runs[recipe])
    assert data["finished"] and data["kind"] == ("plateau-breakthrough" if recipe == "grpo" else recipe)
    assert {stage["state"] for stage in data["stages"]} == {"done"}


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_of_a_run_on_its_way_the_rest_is_left(runs, recipe):
    """After each stage: what is left is what came next, in the same words. AutoNPO is counted as if nothing warned from
    here on; what plain GRPO and plateau-breakthrough did on one workspace is each its own."""
    workspace, stages = runs[recipe], read_stages(runs[recipe])
    plateau, steps = LATE if recipe == "plateau-breakthrough" else None, snapshot_steps(workspace, stages)
    for done in range(1, len(stages) + 1):
        left = [work.label for work in to_do(workspace, workspace.config(), stages[:done], recipe, plateau)]
        came = [label(stage, steps) for stage in stages[done:]]
        if recipe == "grpo":
            came = [words for words in came if words in OF_GRPO]
        elif recipe == "plateau-breakthrough" and done > len(OF_GRPO):
            came = [words for words in came if words not in OF_GRPO]
        if recipe == "auto-npo":
            assert left[:1] == came[:1] or left[0].startswith(("train ", "probe "))
        elif recipe != "plateau-breakthrough" or done > len(OF_GRPO):
            assert left == came


OF_GRPO = ["train main 0-24", "evaluate 3 snapshots"]


@pytest.mark.parametrize("recipe", ["grpo", "early-bootstrap"])
def test_a_plan_counts_what_the_run_then_does(runs, recipe):
    workspace, config = runs[recipe], tiny()
    stages = {label(s, snapshot_steps(workspace, [s])): s for s in read_stages(workspace) if s.name != "base"}
    steps = snapshot_steps(workspace, list(stages.values()))
    done = {label(stage, steps): stage for stage in stages.values()}
    for work in count(config, recipe):
        stage = done[work.label]
        assert work.updates == stage.cost.get("updates", 0)
        assert work.snapshots == len(stage.result.get("snapshots", {}))
        longest = config.training.max_completion_tokens
        assert 0 < stage.cost["tokens_generated"] <= work.tokens(longest)


def test_a_plan_of_auto_npo_is_the_most_that_can_happen(runs):
    made = count(tiny(), "auto-npo")
    planned = sum(work.updates for work in made)
    did = sum(stage.cost.get("updates", 0) for stage in read_stages(runs["auto-npo"]))
    assert did <= planned
    replays = [work for work in made if work.label.startswith("train replay-") and "guided" in work.label]
    assert len(replays) == 2 and all(not work.sure for work in replays)  # max_interventions, and none is certain
    certain = [work for work in made if work.stage == "train" and work.sure]
    assert sum(work.updates for work in certain) == 24
    limited = count(tiny(auto__budget_updates=26), "auto-npo")
    assert sum(work.updates for work in limited) <= 26


def test_what_a_recipe_refuses_is_refused_when_counted():
    with pytest.raises(ConfigError, match="flow = grop: choose one of grpo, early-bootstrap"):
        count(tiny(), "grop")
    with pytest.raises(ConfigError, match=r"auto\.budget_updates = 23 is less than the 24 updates"):
        count(tiny(auto__bootstrap="scout", auto__budget_updates=23), "auto-npo")


def test_a_run_of_an_earlier_version_is_told_by_its_branches(runs):
    for workspace in runs.values():
        started = workspace.store.read_json(STARTED_FILE)
        workspace.store.remove(STARTED_FILE)
        try:
            assert status(workspace)["kind"] == started["recipe"] and status(workspace)["finished"]
        finally:
            workspace.store.write_json(STARTED_FILE, started)


def test_counting_needs_neither_torch_nor_prefect():
    code = (
        "import sys; sys.modules['prefect'] = None\n"
        "from npo_core.config import RunConfig; from npo_core.recipes.counting import count\n"
        "count(RunConfig(), 'auto-npo'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
