"""What a wrong configuration is answered: field, value and remedy, before anything runs."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import yaml

from npo_core.config import EngineSettings, Execution, Guidance, RunConfig, Training, load_config, parse_config
from npo_core.errors import ConfigError, DamagedError, DataError, WorkspaceBusyError
from npo_core.recipes.run import look_first
from npo_core.stages.execute import prepare_device
from npo_core.stages.specs import BaseSpec, EvaluateSpec, TrainSpec
from npo_core.stages.workspace import Workspace, absolute
from npo_core.timeline import workspace_lock

CHAIN = {"kind": "chain"}
# dotted fields and values -> what the sentence has to say: field, value, remedy
CROSS = {
    "difficulties that a chain cannot have": (
        {"problems": {**CHAIN, "operands": 3, "difficulties": [1, 3]}},
        ["problems.difficulties has 3", "3 operands", "use values in that range"],
    ),
    "a negative difficulty": (
        {"problems": {**CHAIN, "operands": 3, "difficulties": [-1]}},
        ["problems.difficulties has -1", "0 to 2"],
    ),
    "updates that do not divide a batch": (
        {"training": {"prompts_per_step": 2, "group_size": 4, "updates_per_batch": 3}},
        ["training.updates_per_batch = 3", "8 completions", "choose a divisor"],
    ),
    "a micro batch that does not divide an update": (
        {"training": {"prompts_per_step": 2, "group_size": 4, "micro_batch": 3}},
        ["training.micro_batch = 3", "8 completions", "choose a divisor"],
    ),
    "a micro batch that divides the batch and not the update": (
        {"training": {"prompts_per_step": 6, "group_size": 2, "updates_per_batch": 2, "micro_batch": 4}},
        ["training.micro_batch = 4", "6 completions", "choose a divisor"],
    ),
    "processes that do not divide an update": (
        {"training": {"prompts_per_step": 2, "group_size": 4}, "execution": {"processes": 3}},
        ["execution.processes = 3", "8 completions", "choose a divisor"],
    ),
    "a micro batch that does not divide the share of a process": (
        {"training": {"prompts_per_step": 3, "group_size": 4, "micro_batch": 4}, "execution": {"processes": 2}},
        ["training.micro_batch = 4", "6 completions", "execution.processes = 2", "choose a divisor"],
    ),
    "processes that machines do not share evenly": (
        {"execution": {"processes": 4, "nodes": 3}},
        ["execution.nodes = 3 does not divide execution.processes = 4", "choose a multiple of it"],
    ),
    "an engine on two machines": (
        {"execution": {"processes": 4, "nodes": 2}, "engine": {"rollouts": True, "tensor_parallel": 4}},
        ["engine.tensor_parallel = 4 does not divide the 2 processes on each of execution.nodes = 2"],
    ),
    "a model split among one": (
        {"execution": {"sharding": "fsdp2"}},
        ["execution.sharding = fsdp2", "set execution.processes to 2 or more"],
    ),
    "a choice among samples that are not drawn": (
        {"guidance": {"keep": "closest"}},
        ["guidance.keep = closest", "guidance.stop_at_first_correct = true", "set it to false", "keep: first"],
    ),
    "the shortest of samples that are not drawn": (
        {"guidance": {"keep": "shortest"}},
        ["guidance.keep = shortest", "false"],
    ),
    "a scout without a snapshot at its end": (
        {"training": {"snapshot_every": 20}, "bootstrap": {"scout_steps": 30}},
        ["bootstrap.scout_steps = 30", "training.snapshot_every = 20", "change either"],
    ),
    "a run without a snapshot at its end": (
        {"training": {"snapshot_every": 20, "steps": 210}},
        ["training.steps = 210", "training.snapshot_every = 20", "change either"],
    ),
    "evaluations between snapshots": (
        {"training": {"snapshot_every": 20}, "evaluation": {"every": 10}},
        ["evaluation.every = 10", "training.snapshot_every = 20", "change either"],
    ),
    "a scout that outlasts the run": (
        {"training": {"steps": 40}, "bootstrap": {"scout_steps": 60}},
        ["bootstrap.scout_steps = 60", "training.steps = 40", "shorten the scout or train longer"],
    ),
    "a rung between snapshots": (
        {"bootstrap": {"scout_steps": 60, "ladder": [20, 50]}},
        ["bootstrap.ladder has 50", "multiples of 20 from 20 to 60"],
    ),
    "a rung after the scout": (
        {"bootstrap": {"scout_steps": 60, "ladder": [80]}},
        ["bootstrap.ladder has 80", "multiples of 20 from 20 to 60"],
    ),
    "a rung at the base": (
        {"bootstrap": {"scout_steps": 60, "ladder": [0]}},
        ["bootstrap.ladder has 0", "from 20 to 60"],
    ),
    "fewer problems than a batch": (
        {"problems": {**CHAIN, "train": 8}, "training": {"prompts_per_step": 16}},
        ["problems.train = 8", "training.prompts_per_step = 16", "no batch"],
    ),
    "a self-teacher that a run taken up would not have": (
        {"mix": {"self_teacher": {"sync_every": 15}}, "training": {"snapshot_every": 20}},
        ["mix.self_teacher.sync_every = 15", "training.snapshot_every = 20", "change one of them"],
    ),
    "a self-teacher without its words": (
        {"mix": {"self_teacher": {"template": "{prompt}"}}},
        ["mix.self_teacher.template = '{prompt}'", "{prompt} and {answer}"],
    ),
    "a self-teacher of split weights": (
        {"mix": {"self_teacher": {}}, "execution": {"sharding": "fsdp2", "processes": 2}},
        ["mix.self_teacher", "execution.sharding = fsdp2", "set it to none"],
    ),
    "a line without a direction": (
        {"mix": {"guide": {"kind": "extrapolated", "step": 40, "from_step": 40}}},
        ["mix.guide.step = 40", "mix.guide.from_step = 40", "choose an earlier step"],
    ),
    "a line that goes nowhere": (
        {"mix": {"guide": {"kind": "extrapolated", "step": 20, "from_step": 40, "horizons": [1, 0]}}},
        ["mix.guide.horizons = [1.0, 0.0]", "above 0"],
    ),
    "guides between snapshots": (
        {"mix": {"guide": {"kind": "nearest", "every": 30, "from_step": 60}}},
        ["mix.guide.every = 30", "training.snapshot_every = 20", "change either"],
    ),
    "the built-in model on other problems": (
        {"problems": {"kind": "data", "train": {"path": "a"}, "held_out": {"path": "b"}}},
        ["model.kind = built-in", "set problems.kind = chain", "model.kind = pretrained"],
    ),
}


@pytest.mark.parametrize("name", CROSS)
def test_settings_that_contradict_each_other(name):
    values, words = CROSS[name]
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    for word in words:
        assert word in str(caught.value)
    assert "Value error" not in str(caught.value)


def bounds() -> list[tuple[str, object]]:
    """Every number with a bound, just outside of it."""
    below_one = [
        "training.steps",
        "training.prompts_per_step",
        "training.updates_per_batch",
        "training.micro_batch",
        "training.max_completion_tokens",
        "training.snapshot_every",
        "guidance.samples",
        "guidance.samples_per_round",
        "guidance.chunk_prompts",
        "bootstrap.scout_steps",
        "evaluation.every",
        "evaluation.samples",
        "evaluation.batch",
        "execution.threads",
        "execution.verifier_workers",
    ]
    at_zero = [
        "training.learning_rate",
        "training.max_grad_norm",
        "training.clip_low",
        "training.clip_high",
        "evaluation.target",
    ]
    below_zero = [
        "training.warmup_steps",
        "training.weight_decay",
        "training.kl_coef",
        "injection.tau_gate",
        "execution.retries",
        "execution.max_outages",
        "execution.retry_delay",
        "seed",
    ]
    rest = [("training.group_size", 1), ("injection.tau_gate", 1.01), ("evaluation.target", 1)]
    return [*((f, 0) for f in below_one), *((f, 0) for f in at_zero), *((f, -1) for f in below_zero), *rest]


def nested(dotted: str, value: object) -> dict:
    *parents, leaf = dotted.split(".")
    values: dict = {leaf: value}
    for parent in reversed(parents):
        values = {parent: values}
    return values


@pytest.mark.parametrize(("field", "value"), bounds())
def test_a_value_out_of_bounds(field, value):
    with pytest.raises(ConfigError) as caught:
        parse_config(nested(field, value))
    assert f"{field} = {value!r}: Input should be " in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("problems.train", 7),
        ("problems.held_out", 0),
        ("problems.operands", 1),
        ("problems.operands", 17),
        ("problems.difficulties", []),
        ("problems.seed", -1),
        ("model.layers", 0),
        ("model.width", 12),
        ("model.width", 36),
        ("model.heads", 0),
        ("model.steps", 0),
        ("model.batch", 0),
        ("model.learning_rate", 0),
        ("model.seed", -1),
    ],
)
def test_a_value_out_of_bounds_in_a_choice_of_kinds(field, value):
    """The field is named as it is written in a file, whatever pydantic calls the kind."""
    values = nested(field, value)
    values[field.split(".")[0]]["kind"] = {"problems": "chain", "model": "built-in"}[field.split(".")[0]]
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert f"  {field} = {value!r}: " in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training.loss", "ppo"),
        ("training.scale_rewards", "all"),
        ("training.lr_schedule", "step"),
        ("guidance.keep", "last"),
        ("injection.importance_sampling", "on"),
        ("injection.baseline", "none"),
        ("execution.device", "tpu"),
        ("execution.start", "thread"),
        ("name", "Not A Name"),
        ("name", ""),
        ("name", "../x"),
        ("training.steps", "many"),
        ("training.steps", 2.5),
        ("training.bf16", "perhaps"),
        ("bootstrap.ladder", 20),
        ("training", 5),
        ("training", None),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", float("inf")),
        ("execution.retry_delay", float("inf")),
        ("problems", {"kind": "sums"}),
        ("model", {"kind": "gpt"}),
    ],
)
def test_a_value_of_the_wrong_kind(field, value):
    with pytest.raises(ConfigError) as caught:
        parse_config(nested(field, value))
    assert field in str(caught.value)
    assert str(value) in str(caught.value) or repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"trainng": {}},
        {"training": {"stpes": 3}},
        {"problems": {**CHAIN, "operand": 3}},
        {"model": {"kind": "built-in", "x": 1}},
        {"guidance": {"temperature": 0.7}},
        {"execution": {"gpu": 1}},
        {"bootstrap": {"delta": 3}},
        {"evaluation": {"k": 3}},
        {"injection": {"tau": 0.5}},
    ],
)
def test_an_unknown_field_is_refused(values):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    section, inner = next(iter(values.items()))
    name = next((key for key in inner if key != "kind"), "")
    field = f"{section}.{name}" if name else section
    assert f"  {field}: there is no such field" in str(caught.value)


def test_every_wrong_field_has_a_line():
    with pytest.raises(ConfigError) as caught:
        parse_config({"seed": -1, "training": {"steps": 0, "group_size": 1}, "nonsense": 1})
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split()[0].rstrip(":") for line in lines) == [
        "nonsense",
        "seed",
        "training.group_size",
        "training.steps",
    ]


@pytest.mark.parametrize("section", ["problems", "model"])
def test_a_section_without_its_kind_is_the_default_kind_or_says_what_to_set(section):
    changed = {"problems": {"train": 64}, "model": {"layers": 2}}[section]
    try:
        config = parse_config({section: changed})
    except ConfigError as error:
        assert f"{section}.kind" in str(error)
    else:
        assert getattr(config, section).kind in ("chain", "built-in")


def test_a_missing_field_is_named():
    with pytest.raises(ConfigError) as caught:
        parse_config({"model": {"kind": "pretrained"}})
    assert "model.path" in str(caught.value)


def test_nothing_can_be_changed_afterwards():
    config = parse_config({})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_the_defaults_are_valid_and_resolved():
    config = parse_config({})
    assert config == parse_config(config.model_dump(mode="json"))
    assert config.guide_steps == [60]
    assert parse_config({"bootstrap": {"ladder": [60, 20, 20]}}).guide_steps == [20, 60]
    assert Training(prompts_per_step=3, group_size=4).batch == 12


def test_choosing_among_samples_wants_them_all():
    assert Guidance(keep="closest", stop_at_first_correct=False).keep == "closest"


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_and_what_wins_over_it(tmp_path):
    file = tmp_path / "run.yaml"
    values = {"seed": 2, "training": {"steps": 40, "group_size": 4}, "bootstrap": {"scout_steps": 20}}
    file.write_text(yaml.safe_dump(values))
    config = load_config(file, {"training.steps": 60, "evaluation.samples": 2, "name": "other"})
    assert (config.seed, config.training.steps, config.training.group_size) == (2, 60, 4)
    assert (config.evaluation.samples, config.name) == (2, "other")


def test_a_field_that_is_written_twice_is_refused(tmp_path):
    """YAML would take the second `training:` and drop the first without a word."""
    file = tmp_path / "run.yaml"
    file.write_text("training:\n  steps: 3\nseed: 1\ntraining:\n  group_size: 4\n")
    with pytest.raises(ConfigError, match="run.yaml: training is written twice, in lines 1 and 4; the first would be"):
        load_config(file)
    file.write_text("training: {steps: 3, steps: 4}\n")
    with pytest.raises(ConfigError, match="steps is written twice, in lines 1 and 1"):
        load_config(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [("training: [", "is not YAML"), ("- 1\n- 2\n", "holds list, not fields"), ("just words", "holds str, not fields")],
)
def test_a_file_that_is_no_configuration(tmp_path, text, words):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_config(tmp_path / "none.yaml")
    assert str(tmp_path / "none.yaml") in str(caught.value)


def test_an_empty_file_is_the_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("")
    assert load_config(file) == parse_config({})


def test_a_file_is_named_in_what_it_gets_wrong(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: -1\n")
    with pytest.raises(ConfigError, match="run.yaml is not a valid configuration"):
        load_config(file)


@pytest.mark.parametrize("text", ["training: 5\n", "training:\n"])
def test_an_override_into_something_that_holds_no_fields(tmp_path, text):
    """An empty section takes the override; a number in its place is refused."""
    file = tmp_path / "run.yaml"
    file.write_text(text)
    try:
        assert load_config(file, {"training.steps": 60}).training.steps == 60
    except ConfigError as error:
        assert "training" in str(error)


# --- a workspace and its configuration -----------------------------------------------------------------------------


def test_a_workspace_belongs_to_one_configuration(tmp_path):
    workspace = Workspace(tmp_path / "run")
    config = parse_config({"training": {"steps": 100}})
    workspace.bind(config)
    assert workspace.config() == config
    workspace.bind(config)
    elsewhere = {"name": "again", "execution": {"threads": 2, "retries": 0}}
    workspace.bind(parse_config({"training": {"steps": 100}, **elsewhere}))
    assert workspace.config() == config


def finish_stage(workspace: Workspace, name: str) -> None:
    workspace.store.write_json(f"stages/{name}/result.json", {})


def test_where_nothing_was_trained_another_configuration_gives_way_and_that_is_said(tmp_path):
    """As after a wrong path, or prompts_per_step that a message told to lower once the base was there."""
    workspace = Workspace(tmp_path / "run")
    old, new = parse_config({"training": {"steps": 100}}), parse_config({"training": {"steps": 60}})
    assert workspace.bind(old) is None
    workspace.store.write_json("stages/base-1/spec.json", {})
    said = workspace.bind(new)
    assert "takes the new configuration, which it held with training.steps = 100, not 60" in said
    assert workspace.config() == new and workspace.store.list("stages") == []
    finish_stage(workspace, "base-2")
    assert workspace.bind(old) is not None and workspace.store.list("stages") == ["base-2"]
    with pytest.raises(ConfigError, match="model.layers = 4, not 2"):  # of which the base is another
        workspace.bind(parse_config({"model": {"kind": "built-in", "layers": 2}}))


@pytest.mark.parametrize("begun", ["segments/1/mark-000004.json", "stages/train-1/result.json"])
def test_what_was_trained_is_not_given_up(tmp_path, begun):
    workspace = Workspace(tmp_path / "run")
    workspace.bind(parse_config({}))
    workspace.store.write_json(begun, {})
    with pytest.raises(ConfigError, match="seed = 0, not 1"):
        workspace.bind(parse_config({"seed": 1}))


def test_a_look_refuses_and_writes_nothing(tmp_path):
    uri, config = str(tmp_path / "run"), parse_config({})
    assert look_first(config, uri) == config and not (tmp_path / "run").exists()
    workspace = Workspace(uri)
    workspace.bind(config)
    finish_stage(workspace, "train-1")
    files = sorted(tmp_path.rglob("*"))
    assert look_first(None, uri) == config
    with pytest.raises(ConfigError, match="seed = 0, not 1"):
        look_first(parse_config({"seed": 1}), uri)
    assert sorted(tmp_path.rglob("*")) == files
    with workspace_lock(workspace.store, owner="npo other"), pytest.raises(WorkspaceBusyError, match="'npo other'"):
        look_first(config, uri)
    look_first(config, uri)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 7}, "seed = 0, not 7"),
        ({"training": {"steps": 100, "learning_rate": 0.5}}, "training.learning_rate = 0.0002, not 0.5"),
        ({"problems": {**CHAIN, "train": 4096}}, "problems.train = 8192, not 4096"),
        ({"model": {"kind": "built-in", "layers": 2}}, "model.layers = 4, not 2"),
        ({"model": {"kind": "pretrained", "path": "x"}}, "model = "),
        ({"guidance": {"samples": 3}}, "guidance.samples = 8, not 3"),
        ({"injection": {"tau_gate": 0.5}}, "injection.tau_gate = 0.6, not 0.5"),
        ({"bootstrap": {"ladder": [20]}}, "bootstrap.ladder = [], not [20]"),
        ({"evaluation": {"samples": 9}}, "evaluation.samples = 4, not 9"),
    ],
)
def test_another_configuration_is_refused_by_field(tmp_path, change, sentence):
    workspace = Workspace(tmp_path / "run")
    workspace.bind(parse_config({"training": {"steps": 100}}))
    finish_stage(workspace, "train-1")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        workspace.bind(parse_config({"training": {"steps": 100}, **change}))
    assert sentence in str(caught.value)
    assert str(tmp_path / "run") in str(caught.value)
    assert "give another workspace" in str(caught.value)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_every_field_decides_unless_it_says_only_where_and_how(tmp_path):
    """A field that is added later is compared, too."""
    workspace = Workspace(tmp_path / "run")
    workspace.bind(parse_config({}))
    assert set(RunConfig.model_fields) == {
        "name",
        "seed",
        "method",
        "problems",
        "model",
        "training",
        "injection",
        "mix",
        "guidance",
        "bootstrap",
        "auto",
        "evaluation",
        "engine",
        "execution",
        "retention",
        "tracking",
    }


def test_a_workspace_in_the_home_folder_is_the_same_from_forms_and_shells(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/runs/one") == Workspace("~/runs/one").uri == str(tmp_path / "runs/one")
    assert absolute("s3://bucket/~one") == "s3://bucket/~one"


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(DataError, match="holds no run"):
        Workspace(tmp_path).config()


def test_a_configuration_that_was_cut_off(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(DamagedError, match="config.json"):
        Workspace(tmp_path).config()


def test_a_configuration_of_another_version(tmp_path):
    values = json.loads(parse_config({}).model_dump_json()) | {"colour": "red"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="colour: there is no such field") as caught:
        Workspace(tmp_path).config()
    assert str(tmp_path) in str(caught.value)


# --- fingerprints --------------------------------------------------------------------------------------------------


@pytest.fixture
def specs(config, tmp_path) -> dict:
    common = {"workspace": str(tmp_path), "execution": config.execution, "problems": config.problems}
    return {
        "base": BaseSpec(model=config.model, **common),
        "train": TrainSpec(
            training=config.training,
            injection=config.injection,
            seed=1,
            sampling_seed=1,
            branch="a",
            start="s",
            until=8,
            **common,
        ),
        "evaluate": EvaluateSpec(evaluation=config.evaluation, max_completion_tokens=3, snapshots=["s"], **common),
    }


def test_a_fingerprint_is_of_what_and_not_of_where_or_how(specs, config):
    for spec in specs.values():
        elsewhere = spec.model_copy(
            update={
                "workspace": "s3://runs/x",
                "execution": config.execution.model_copy(update={"threads": 2}),
                "engine": EngineSettings(python="/opt/vllm/bin/python", memory=0.9, max_model_len=99, max_kl=1.0),
            }
        )
        assert elsewhere.fingerprint == spec.fingerprint


def test_an_engine_decides_only_where_it_generates(specs):
    """And the default one leaves no trace, so that work from before there was a choice is found done."""
    vllm, rollouts = EngineSettings(kind="vllm"), EngineSettings(rollouts=True)
    changed = {
        stage: [spec.model_copy(update={"engine": e}).fingerprint != spec.fingerprint for e in (vllm, rollouts)]
        for stage, spec in specs.items()
    }
    assert changed == {"base": [False, False], "train": [False, True], "evaluate": [True, False]}
    assert all("engine" not in spec.deciding() for spec in specs.values())
    evaluate = specs["evaluate"]
    assert evaluate.model_copy(update={"engine": vllm}).protocol != evaluate.protocol


def test_a_workspace_takes_another_interpreter_and_no_other_engine(tmp_path):
    Workspace(tmp_path).bind(parse_config({"engine": {"kind": "vllm", "python": "/a"}}))
    Workspace(tmp_path).bind(parse_config({"engine": {"kind": "vllm", "python": "/b", "memory": 0.5}}))
    finish_stage(Workspace(tmp_path), "train-1")
    with pytest.raises(ConfigError, match="engine.kind = 'vllm', not 'transformers'"):
        Workspace(tmp_path).bind(parse_config({"engine": {"python": "/a"}}))


@pytest.mark.parametrize("stage", ["base", "train", "evaluate"])
def test_every_deciding_field_is_in_the_fingerprint(specs, stage):
    spec = specs[stage]
    leaves = list(paths(spec.model_dump(mode="json", exclude={"workspace", "execution", "engine"})))
    assert len(leaves) > 10
    seen = {spec.fingerprint}
    for path in leaves:
        values = spec.model_dump(mode="json")
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = copy.deepcopy(other(node[path[-1]]))
        seen.add(type(spec).model_construct(**values).fingerprint)
    assert len(seen) == len(leaves) + 1


def paths(node: object, at: tuple = ()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, (*at, key))
    else:
        yield at


def other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else ["x"]


def test_adapters_are_not_sharded():
    model = {"kind": "pretrained", "path": "x", "lora": {"rank": 4}}
    problems = {"kind": "data", "train": {"path": "x.jsonl"}, "held_out_rows": 4}
    with pytest.raises(ConfigError, match="execution.sharding = fsdp2 splits no adapters"):
        parse_config({"model": model, "problems": problems, "execution": {"processes": 2, "sharding": "fsdp2"}})


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_made():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="execution.device = cuda, but torch .* finds no GPU here"):
        prepare_device(Execution(device="cuda"))
