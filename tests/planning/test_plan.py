"""What fits is quiet; what does not names the field, its value and one that fits; what is unknown refuses nothing."""

import json
import math
import re
from dataclasses import replace

import pytest
from settings import LARGE, gpu, pretrained, tiny
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.config import load_config, override, parse_config
from npo_core.errors import ConfigError
from npo_core.planning import Machine, look, make_plan, model_size
from npo_core.planning.machine import GIB, left_in_container
from npo_core.planning.needs import find_needs
from npo_core.planning.seconds import OCCUPANCY
from npo_core.planning.setting import Setting
from npo_core.planning.speed import GPUS
from npo_core.recipes import RECIPES
from npo_core.shipped import presets

PRESETS = list(presets().values())
EARLY = {"trigger": {"warm_up": 0, "window": 1}}  # signals that may warn within a short run


def plan(config, machine, flow="early-bootstrap", size=LARGE):
    return make_plan(config, size, machine, flow)


def need(made, what):
    return next(n for n in made.needs if n.what == what)


@pytest.mark.parametrize("flow", RECIPES)
def test_a_run_that_fits_is_quiet(flow):
    made = plan(tiny(), Machine("cpu", 0, "CPU", 16 * GIB, 16 * GIB, 16 * GIB), flow, size=model_size(tiny()))
    assert not made.refused and not made.changes
    assert {n.verdict for n in made.needs} == {"fits"}


def test_too_large_a_micro_batch_is_refused_with_one_that_fits():
    config = pretrained(training__micro_batch=32, training__prompts_per_step=8)
    made = plan(config, gpu(40))
    assert made.refused and need(made, "train").phase == "update"
    said = next(sentence for sentence in made.changes if "tage train" in sentence)
    value = int(re.search(r"training\.micro_batch = (\d+) \(now 32\)", said)[1])
    fits = {v: plan(pretrained(training__micro_batch=v), gpu(40)) for v in (value, 2 * value)}
    assert need(fits[value], "train").verdict == "fits" and need(fits[2 * value], "train").verdict != "fits"


def test_checkpointing_is_proposed_where_it_helps():
    config = pretrained(training__micro_batch=1, training__group_size=2, training__max_completion_tokens=16384)
    made = plan(config, gpu(40))
    assert any("training.gradient_checkpointing = true (now false)" in sentence for sentence in made.changes)


def test_adapters_are_proposed_where_the_moments_are_too_much():
    made = plan(pretrained(training__micro_batch=1, training__group_size=2, evaluation__batch=4), gpu(7), "grpo")
    said = next(sentence for sentence in made.changes if sentence.startswith("Stage train needs"))
    assert "model.lora = {rank: 16} (now none)" in said and ": training.micro_batch = " not in said
    small = replace(LARGE, trainable=LARGE.parameters // 100)
    fields = {"training__micro_batch": 1, "training__group_size": 2, "training__gradient_checkpointing": True}
    adapted = pretrained(**fields, model__lora={"rank": 16})
    assert need(plan(adapted, gpu(7), "grpo", size=small), "train").verdict == "fits"


def test_more_gpus_are_proposed_where_weights_and_moments_are_too_much():
    fields = {"training__micro_batch": 1, "training__gradient_checkpointing": True}
    made = plan(pretrained(**fields, training__prompts_per_step=32), gpu(10), "grpo")
    said = next(sentence for sentence in made.changes if sentence.startswith("Stage train needs"))
    number = int(re.search(r"execution.sharding = fsdp2 \(now none\) and execution.processes = (\d+)", said)[1])
    more = {"execution__processes": number, "execution__sharding": "fsdp2", "training__prompts_per_step": 32}
    assert need(plan(pretrained(**fields, **more), gpu(10), "grpo"), "train").verdict == "fits"


def test_processes_on_a_cpu_share_its_memory():
    config = pretrained(execution__processes=2, training__micro_batch=4, execution__device="cpu")
    machine = Machine("cpu", 0, "CPU", 64 * GIB, 64 * GIB, 1e15)
    limits = {n.what: n.limit for n in plan(config, machine).needs}
    assert limits["train"] == 32 * GIB and limits["evaluate"] == 64 * GIB


def test_a_batch_that_cannot_be_generated_is_refused_with_one_that_can():
    made = plan(pretrained(training__prompts_per_step=64, training__micro_batch=1, problems__train=96), gpu(30))
    assert need(made, "train").phase == "generation"
    value = re.search(r"training\.generation_batch = (\d+) \(now none\)", "".join(made.changes))[1]
    fields = {"training__prompts_per_step": 64, "training__micro_batch": 1, "problems__train": 96}
    less = pretrained(**fields, training__generation_batch=int(value))
    assert value == "128" and need(plan(less, gpu(30)), "train").verdict == "fits"


@pytest.mark.parametrize(
    ("what", "field"), [("guide", "guidance.batch"), ("evaluate", "evaluation.batch"), ("probe", "auto.probe.")]
)
def test_other_stages_have_their_own_remedy(what, field):
    fields = {"problems__held_out": 4096, "problems__train": 4096, "training__micro_batch": 1}
    made = plan(pretrained(**fields, auto__control=EARLY), gpu(16), "auto-npo")
    assert need(made, what).verdict == "too much"
    assert any(sentence.startswith(f"Stage {what} needs") and f"{field}" in sentence for sentence in made.changes)


def test_a_disk_that_is_too_small_asks_for_fewer_snapshots():
    needed = need(plan(pretrained(), gpu(1000)), "disk").total
    made = plan(pretrained(), gpu(1000, disk=0.6 * needed))
    assert need(made, "disk").verdict == "too much" and made.refused
    assert "training.snapshot_every = 12 (now 4)" in "".join(made.changes)


def test_moments_of_what_was_left_behind_are_not_counted_where_the_run_drops_them():
    """The scout's snapshots keep their weights; those of the path, and of a run without rollbacks, stay whole."""
    kept = {
        (flow, what): need(plan(pretrained(retention=what), gpu(1000), flow), "disk").total
        for flow in ("grpo", "early-bootstrap")
        for what in ("all", "needed")
    }
    assert kept["grpo", "all"] == kept["grpo", "needed"]
    config, setting = pretrained(), Setting(pretrained(), LARGE, "cuda")
    scouted = config.bootstrap.scout_steps // config.training.snapshot_every
    saved = kept["early-bootstrap", "all"] - kept["early-bootstrap", "needed"]
    assert saved == pytest.approx(scouted * 2 * LARGE.trainable * setting.trained_bytes)


def test_several_gpus_share_guidance_and_each_holds_a_model():
    config, one_gpu = pretrained(guidance__chunk_prompts=1), replace(gpu(80), speed=GPUS["H100"].speed)
    plans = [plan(config, replace(one_gpu, gpus=number)) for number in (1, 8)]
    one, eight = ({stage.label: stage.seconds for stage in made.stages} for made in plans)
    [guide] = [label for label in one if label.startswith("guide")]
    assert 7 < one[guide] / eight[guide] <= 8
    assert need(plans[1], "host").total > need(plans[0], "host").total
    assert any("dealt out among 8 processes" in said for said in plans[1].assumptions)


def test_weights_and_gradients_on_their_way_take_time():
    """FSDP2 gathers weights once a rollout and twice a micro batch; between slow links that is what takes the time."""
    fast, slow = GPUS["H100"].speed, replace(GPUS["H100"].speed, link=1e9)
    alone = replace(fast, link=math.inf)
    for sharding in ("fsdp2", "none"):
        config = pretrained(execution__processes=4, execution__sharding=sharding, training__micro_batch=8)
        made = [plan(config, replace(gpu(80), gpus=4, speed=speed), "grpo") for speed in (alone, fast, slow)]
        free, near, far = (stages.stages[0].seconds for stages in made)
        assert free <= near < far
        training = config.training
        gathered = 0.75 * LARGE.parameters * 2 / 1e9 * training.steps if sharding == "fsdp2" else 0.0
        times = 1 + 2 * (training.batch // 4 // training.micro_batch)
        assert far > times * gathered and far < free + 3 * times * 0.75 * LARGE.parameters * 4 / 1e9 * training.steps
        assert any("go between GPUs at 1 GB/s" in said for said in made[2].assumptions)


def test_what_a_workspace_holds_is_not_needed_again(tmp_path):
    setting = Setting(pretrained(), LARGE, "cuda")
    (tmp_path / "snapshots/one").mkdir(parents=True)
    (tmp_path / "snapshots/one/model.safetensors").write_bytes(b"x" * 1000)
    found = [find_needs(setting, gpu(1000, disk=5000), "grpo", folder)[-1].limit for folder in (None, tmp_path)]
    assert found == [5000, 6000]


def test_replays_that_may_not_happen_refuse_nothing():
    least = need(plan(pretrained(), gpu(1000), "grpo"), "disk").total
    config = pretrained(auto__max_interventions=3, auto__control=EARLY)
    made = plan(config, gpu(1000, disk=1.1 * least), "auto-npo")
    assert need(made, "disk").verdict == "close" and not made.refused and made.changes


def test_the_unknown_refuses_nothing():
    nothing = Machine("cuda", 1, "GPU", None, None, None)
    made = plan(pretrained(), nothing)
    assert not made.refused and not made.changes and {n.verdict for n in made.needs} == {"unknown"}
    assert {"Memory", "Free", "Time"} <= {sentence.split()[0] for sentence in made.unknown}
    unsized = make_plan(pretrained(), "model.path = a/model: its size is not known.", gpu(1), "grpo")
    assert not unsized.refused and unsized.unknown == ["model.path = a/model: its size is not known."]


def test_an_estimate_just_beyond_is_no_refusal():
    needed = need(plan(pretrained(), gpu(1000)), "train").total
    for share, verdict in ((1.01, "fits"), (0.9, "close"), (0.7, "too much")):
        assert need(plan(pretrained(), gpu(share * needed / GIB)), "train").verdict == verdict


def test_long_prompts_alone_refuse_nothing():
    source = {"path": "a", "limit": 64}
    data = {"kind": "data", "train": source, "held_out": source, "max_prompt_tokens": 8192}
    config = pretrained(training__micro_batch=1, training__group_size=2).model_dump(mode="json") | {"problems": data}
    made = plan(parse_config(config), gpu(40), "grpo")
    assert need(made, "train").verdict == need(made, "evaluate").verdict == "close" and not made.refused
    assert plan(parse_config(config), gpu(7), "grpo").refused


def test_tokens_are_prompts_times_group_times_length():
    made = plan(tiny(), gpu(100), "grpo")
    assert made.stages[0].tokens == 24 * 8 * 4 * 3 and made.stages[0].completions == 24 * 8 * 4
    assert made.stages[1].completions == 3 * 16 * 2  # steps 0, 12 and 24; problems; samples
    rated = make_plan(tiny(), LARGE, gpu(100), "grpo", tokens_per_second=100.0, completion_tokens=2)
    assert rated.stages[0].tokens == 24 * 8 * 4 * 2 and rated.stages[0].seconds == 24 * 8 * 4 * 2 / 100


def test_time_falls_with_gpus_and_rises_with_length():
    def hours(tokens, gpus):
        fields = {"training__max_completion_tokens": tokens, "training__prompts_per_step": 32}
        config = pretrained(**fields, training__micro_batch=32, execution__processes=gpus)
        return make_plan(config, LARGE, look(config, gpu="H100"), "grpo").stages[0].seconds

    assert hours(2048, 4) < hours(2048, 1) > 2 * hours(512, 1) > 0


def test_a_flow_or_gpu_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="flow = grop: choose one of grpo"):
        plan(tiny(), gpu(1), "grop")
    with pytest.raises(ConfigError, match="gpu = H9000: give one of H200"):
        look(tiny(), gpu="H9000")


def test_all_gpus_of_each_machine_generate(monkeypatch):
    monkeypatch.setattr("npo_core.planning.machine.gpus_here", lambda: [("NVIDIA H100", 80.0)] * 8)
    config = pretrained(execution__device="cuda", execution__processes=8, execution__nodes=2)
    machine = look(config)
    found = Setting(config, LARGE, "cuda", gpus=machine.gpus)
    assert (machine.gpus, found.generating, found.generating_here) == (16, 16, 8)


def test_a_container_limits_memory(tmp_path):
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 10\ninactive_file 500\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert left_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("10000\n")
    assert left_in_container(tmp_path) == 7500


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_plan_of_every_preset_prints(path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    large = "pretrained" in load_config(path).model.kind
    options = ["--gpu", "h200"] if large else ["--tokens-per-second", "4000"]
    result = CliRunner().invoke(app, ["plan", str(path), *options, "--json"])
    data = json.loads(result.stdout)
    assert result.exit_code == (64 if data["refused"] else 0)
    assert data["model"]["parameters"] > (5e8 if large else 1e3)
    assert len(data["stages"]) == (2 if load_config(path).recipe else 5)
    assert bool(data["changes"]) == any(n["verdict"] in ("close", "too much") for n in data["needs"])
    assert large or not data["refused"]


def test_the_plan_reads_well_in_a_terminal(tmp_path):
    arguments = ["plan", "smoke", "--workspace", str(tmp_path), "--set", "execution.device=cpu"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for text in ("memory of train", "KV cache", "train replay 0-12 guided", "Time: 50% of", "It fits."):
        assert text in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.stem.startswith("qwen3")], ids=lambda path: path.stem)
def test_presets_fit_the_gpus_that_they_name(preset):
    config = load_config(preset)
    machine = Machine("cuda", config.execution.processes, "80 GB", 79 * GIB, None, None)
    made = plan(config, machine, size=model_size(config))
    stages = {n.what: n.verdict for n in made.needs if n.what in ("train", "guide", "evaluate")}
    assert stages == {"train": "fits", "guide": "fits", "evaluate": "fits"}


def test_short_completions_of_a_rollout_take_the_places_of_others():
    """Of 16 batches a process: as long as the longest each where all are, else mean lengths one behind another."""
    fields = {"training__max_completion_tokens": 1000, "training__prompts_per_step": 32, "training__micro_batch": 1}
    config = pretrained(**fields, training__generation_batch=8)  # of 32 x 4 completions
    speed = replace(GPUS["H100"].speed, layer=1.0)  # a pass takes as long whatever is in it

    def passes(length: int, **changes) -> float:
        changed = parse_config(override(config.model_dump(mode="json"), changes))
        made = make_plan(changed, LARGE, replace(gpu(80), speed=speed), "grpo", completion_tokens=length)
        return made.stages[0].seconds / (LARGE.layers * made.stages[0].updates)

    rows = config.training.batch // 8
    assert passes(1000) == pytest.approx(1000 * rows, rel=0.02)
    assert passes(200) == pytest.approx(1000 + 200 * (rows - 1) / OCCUPANCY, rel=0.02)
    assert passes(950) == pytest.approx(1000 * rows, rel=0.02)  # never more than batch after batch
    assert passes(200, **{"training.generation_batch": None}) == pytest.approx(1000, rel=0.02)
