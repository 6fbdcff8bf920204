"""Every shipped deployment fits the GPUs that its description names, with all of its stages."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from npo_core.config import load_config
from npo_core.names import RECIPE_NAMES
from npo_core.planning import look, make_plan, model_size
from npo_core.shipped import presets, shipped

JOB = json.loads((shipped() / "deployments/kubernetes/work-pool.json").read_text())["variables"]["properties"]
NEEDS = re.compile(r"Needs (one|\d+) (\w+)[ .,]")


def deployments() -> dict[str, tuple[str, str, int, str]]:
    """Of those that need GPUs: flow, preset, number and kind of GPUs."""
    found = {}
    for made in yaml.safe_load((shipped() / "prefect.yaml").read_text())["deployments"]:
        if needed := NEEDS.search(made["description"]):
            number, kind = needed.groups()
            flow, preset = re.search(r"preset\.([\w-]+)\.([\w-]+)", str(made["parameters"])).groups()
            found[made["name"]] = (flow, preset, 1 if number == "one" else int(number), kind)
    return found


@pytest.mark.parametrize("preset", [name for name in presets() if "8b" in name])
def test_8b_fits_on_eight_and_sixteen_gpus_with_every_flow_and_guidance_takes_hours(preset):
    """And a probe, the scout and its replay; what plateau-breakthrough asks of guidance at most takes days."""
    size = model_size(load_config(presets()[preset]))
    cases = [*itertools.product((8, 16), ["H100"], RECIPE_NAMES), *((n, "H200", "auto-npo") for n in (8, 16))]
    for gpus, kind, flow in cases:  # an H200 has more memory, and the same formulas
        config = load_config(presets()[preset], {"execution.processes": gpus}, flow)
        made = make_plan(config, size, look(config, gpu=kind), flow)
        assert {need.verdict for need in made.needs} <= {"fits", "unknown"}, (gpus, kind, flow)
        hours = {stage.label: stage.seconds / 3600 for stage in made.stages if stage.seconds is not None}
        assert hours and all(stage.seconds is not None for stage in made.stages if stage.stage != "evaluate")
        if flow == "early-bootstrap":
            first = [hours[label] for label in hours if label.startswith(("guide", "train scout")) or "guided" in label]
            assert len(first) == 3 and max(first) < 16
        assert max([hours[label] for label in hours if label.startswith("probe")], default=0) < 1


def preset_file(name: str) -> Path:
    """The file of a preset by the name that prefect.yaml can write, which has no dots."""
    return next(file for shown, file in presets().items() if shown.replace(".", "-") == name)


def test_every_deployment_that_trains_a_large_model_says_what_it_needs():
    assert {preset for _, preset, _, _ in deployments().values()} == {
        name.replace(".", "-") for name in presets() if name.startswith("qwen")
    }


@pytest.mark.parametrize("name", deployments())
def test_a_deployment_fits_the_gpus_it_names(name):
    flow, preset, number, kind = deployments()[name]
    config = load_config(preset_file(preset), recipe=flow)
    assert config.execution.processes == number
    made = make_plan(config, model_size(config), look(config, gpu=kind), flow)
    verdicts = {need.what: need.verdict for need in made.needs}
    assert not made.refused and set(verdicts.values()) <= {"fits", "unknown"}, verdicts
    if number == 1:  # jobs of more ask for more, as docs/deployment.md says
        [host] = [need.total for need in made.needs if need.what == "host"]
        assert host < 2**30 * int(JOB["memory_limit"]["default"].removesuffix("Gi"))
    assert {"train", "evaluate"} < set(verdicts) and ("probe" in verdicts) is (flow == "auto-npo")
