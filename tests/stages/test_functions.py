"""A function that verifies is part of a run: another source by the same name is noticed when it goes on."""

import os
import re

import pytest

from npo_core.config import parse_config
from npo_core.errors import ConfigError
from npo_core.recipes.run import Run, look_first, open_run
from npo_core.stages import nodes
from npo_core.stages.functions import require_functions_of_run
from npo_core.stages.specs import GuideSpec
from npo_core.stages.workspace import Workspace

FIRST = "def reward(prompt, completion, answer, **row):\n    return completion == answer\n"
SECOND = FIRST.replace("==", "!=")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run that was begun with a function, and its configuration with other settings of execution."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    (tmp_path / "mine.py").write_text(FIRST)
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 9)
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    verifier = {"kind": "function", "path": "mine:reward"}
    problems = {"kind": "data", "train": {"path": str(tmp_path / "rows.jsonl")}, "held_out_rows": 1}
    values = {
        "problems": problems | {"verifier": verifier},
        "model": {"kind": "pretrained", "path": str(tmp_path / "model")},
        "training": {"prompts_per_step": 2},
    }
    with open_run(parse_config(values), str(tmp_path / "run"), "grpo"):
        pass
    return lambda **execution: parse_config(values | {"execution": execution})


def test_once_the_base_is_made_model_and_rows_need_not_be_there(begun, tmp_path):
    """As without a network, or on another machine: the workspace holds what was taken in."""
    uri = str(tmp_path / "run")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(ConfigError, match="holds no config.json"):
        look_first(begun(), uri)
    workspace = Workspace(uri)
    workspace.store.write_json(f"{Run(begun(), workspace).base().folder}/result.json", {})
    look_first(begun(), uri)


def test_before_anything_is_trained_a_function_may_change(begun, tmp_path):
    (tmp_path / "mine.py").write_text(SECOND)
    with open_run(begun(), str(tmp_path / "run"), "grpo"):
        pass
    Workspace(tmp_path / "run").store.write_json("segments/1/mark-000004.json", {})
    look_first(begun(), str(tmp_path / "run"))


def test_afterwards_it_is_noticed_and_the_setting_goes_on(begun, tmp_path):
    uri = str(tmp_path / "run")
    Workspace(uri).store.write_json("segments/1/mark-000004.json", {})
    (tmp_path / "mine.py").write_text("# said otherwise\n\n" + FIRST)
    look_first(begun(), uri)
    (tmp_path / "mine.py").write_text(SECOND)
    said = r"mine:reward \(.*mine\.py\) changed since the run began.*--set execution\.accept_changed_functions=true"
    for start in (lambda: look_first(begun(), uri), lambda: open_run(begun(), uri, "grpo").__enter__()):
        with pytest.raises(ConfigError, match=said):
            start()
    with open_run(begun(accept_changed_functions=True), uri, "grpo"):
        pass
    look_first(begun(), uri)  # it is the run's now


def test_a_machine_that_joins_has_the_functions_of_the_run(begun, tmp_path, monkeypatch):
    """Whatever its file is called: the answers that its function finds right would become guidance."""
    run = Run(begun(), Workspace(tmp_path / "run"))
    guide = run.guide(guides=["late"], rollback="early", segments=["first"])
    train, probe = run.train(branch="b", start="early", until=2), run.probe(snapshot="late", candidates=[])
    (other := tmp_path / "other").mkdir()
    monkeypatch.syspath_prepend(str(other))
    (other / "mine.py").write_text("# the same but for this\n" + FIRST)
    for spec in (guide, train, probe):
        require_functions_of_run(spec)
    (other / "mine.py").write_text(SECOND)
    theirs, ours = rf"\({tmp_path}/mine\.py on the first machine\)", rf"\({other}/mine\.py\)"
    said = f"mine:reward {ours} is another one than the run's {theirs}"
    for spec in (guide, train):
        with pytest.raises(ConfigError, match=f"{said}: give all machines of execution.nodes the same file"):
            require_functions_of_run(spec)
    monkeypatch.setattr(GuideSpec, "reads", None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert re.match(f"Machine 1: The module of the verifier's function {said}", nodes.missing(guide, "1"))
    require_functions_of_run(probe)  # verified on the first machine
    (other / "mine.py").write_text("")
    with pytest.raises(ConfigError, match="mine:reward cannot be imported"):
        require_functions_of_run(guide)
    Workspace(tmp_path / "run").store.write_json("functions.json", {})
    (other / "mine.py").write_text(SECOND)
    require_functions_of_run(guide)  # as where the run's has no source
