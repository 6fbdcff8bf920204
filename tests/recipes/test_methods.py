"""Methods by name: what each is, and those whose guide is not ahead, run to their ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from npo_core.config import PluginSource, RunConfig, load_config
from npo_core.config.methods import methods
from npo_core.errors import ConfigError, NPOError
from npo_core.guidance.cache import GuidanceCache
from npo_core.mix.plugin import plugin
from npo_core.problems.load import load_problems
from npo_core.recipes.counting import count
from npo_core.recipes.run import DRAWS, STARTED_FILE, look_first, open_run, require_recipe
from npo_core.reporting.records import read_stages
from npo_core.shipped import presets, shipped
from npo_core.stages.guides import write_beyond
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_outcomes
from tests.recipes.conftest import tiny

OF_TASK = {
    "past-self": {"mix.guide.from_step": 8},
    "rlsd": {"mix.self_teacher.sync_every": 4},
}  # what a method leaves to its user
GUIDED = {"auto-npo", "auto-npo-prices", "far-future", "luffy", "npo-early", "past-self", "rlep"}


@pytest.mark.parametrize("name", methods())
def test_a_method_is_short_and_planned_on_every_task(name):
    assert len(methods()[name].read_text().splitlines()) <= 20
    guided = []
    for preset, changes in (("smoke", OF_TASK.get(name, {})), ("demo", {})):
        config = load_config(presets()[preset], {"method": name, **changes})
        work = count(config, config.recipe)
        guided.append(any(w.stage == "guide" for w in work))
        assert sum(w.updates for w in work) >= config.training.steps
    assert any(guided) is (name in GUIDED)


def test_a_plan_counts_extra_samples_at_most():
    plain, rescued = (
        sum(
            w.completions for w in count(load_config(presets()["demo"], {"method": name}), "grpo") if w.stage == "train"
        )
        for name in ("grpo", "pool-rescue-replay-32")
    )
    assert rescued == 5 * plain  # a dead batch gets four rounds as large as itself


def test_given_fields_win_and_defaults_give_way():
    form = {"method": "pool-rescue-replay-8", "injection": {"gate": "pass_rate", "tau_gate": 0.6}}
    form["mix"] = {"replay": {"rows": 3}, "prompts": []}
    config = RunConfig(**form)
    assert (config.injection.gate, config.mix.replay.rows, config.mix.replay.max_age) == ("dead", 3, 120)
    assert [source.kind for source in config.mix.prompts] == ["mistake-pool"]


def test_auto_npo_weighs_prices_unless_something_else_is_written(tmp_path):
    demo = presets()["demo"]
    config = load_config(demo, recipe="auto-npo")
    assert (config.method, config.auto.choice.rule, config.auto.choice.now) == (
        "auto-npo-prices",
        "signal_per_price",
        True,
    )
    for recipe in ("grpo", "early-bootstrap", "plateau-breakthrough", None):
        assert load_config(demo, recipe=recipe).method is None
    assert load_config(demo, {"auto.choice.max_delta": 40}, "auto-npo").method == "auto-npo-prices"
    published = [{"method": "auto-npo"}, {"auto.choice.rule": "signal"}, {"auto.probe.behind": 0}]
    for written in (*published, {"mix.sources": [{"kind": "extra-samples"}]}):
        config = load_config(demo, written, "auto-npo")
        assert config.method == written.get("method") and config.auto.choice == RunConfig().auto.choice
    for method in ("auto-npo", None):  # a run's configuration makes the run again
        run = load_config(demo, {"method": method})
        (tmp_path / "config.json").write_text(run.model_dump_json())
        assert load_config(tmp_path / "config.json", recipe="auto-npo") == run
    assert load_config(presets()["pool-rescue"], recipe="auto-npo").method == "pool-rescue-replay-8"
    assert load_config(presets()["qwen3-vl-8b-paper"], recipe="auto-npo").auto.choice.rule == "signal"


def test_another_method_over_a_runs_configuration_is_that_one_alone(tmp_path):
    demo, file = presets()["demo"], tmp_path / "config.json"
    file.write_text(load_config(demo, {"training.steps": 80}, "auto-npo").model_dump_json())
    assert load_config(file, {"method": "auto-npo"}) == load_config(demo, {"method": "auto-npo", "training.steps": 80})


@pytest.mark.parametrize(("begun", "then"), [({"method": "auto-npo-prices"}, {}), ({}, {"method": "auto-npo-prices"})])
def test_a_workspace_of_another_method_says_how_to_go_on_and_it_works(tmp_path, begun, then):
    workspace, demo = Workspace(tmp_path / "run"), presets()["demo"]
    workspace.bind(load_config(demo, begun))
    workspace.store.write_bytes("segments/one.json", b"{}")  # something depends on it
    with pytest.raises(ConfigError, match="auto.probe.behind = .*(whose method is|named no method)") as refused:
        workspace.bind(load_config(demo, then))
    named = re.search(r"--method ([\w-]+)", str(refused.value))
    workspace.bind(load_config(demo, {"method": named[1]}, "auto-npo"))


def test_a_method_of_ones_own_is_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: grpo\ninjection: {gate: dead}\nmix:\n  sources: [{kind: extra-samples}]\n")
    assert RunConfig(method=str(file)).mix.sources[0].chunks == 1


def test_a_written_value_that_would_give_way_is_refused_and_the_remedy_works(tmp_path):
    source, changes = presets()["smoke"], {"method": "auto-npo-prices", "auto.choice.now": False}
    with pytest.raises(
        ConfigError, match=r"auto.choice.now = False is the default, which gives way to True of the meth"
    ):
        load_config(source, changes)
    copy = tmp_path / "mine.yaml"
    copy.write_text(methods()["auto-npo-prices"].read_text().replace("now: true", "now: false"))
    assert load_config(source, changes | {"method": str(copy)}).auto.choice.now is False
    assert load_config(source, {"method": "auto-npo-prices", "auto.probe.behind": 1}).auto.probe.behind == 1


@pytest.mark.parametrize(
    ("text", "words"), [(None, "no such method"), ("recipe: dance", "is no method"), ("[", "is not YAML")]
)
def test_what_is_no_method_is_refused(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    source = tmp_path / "config.yaml"
    source.write_text(yaml.safe_dump({"method": str(file)}))
    with pytest.raises(ConfigError, match=words):
        load_config(source)


def test_a_method_belongs_to_its_recipe():
    with pytest.raises(ConfigError, match="method = rlep is for the recipe early-bootstrap, not grpo"):
        require_recipe(RunConfig(method="rlep"), "grpo")
    with pytest.raises(ConfigError, match="mix.guide is for the recipe grpo"):
        require_recipe(RunConfig(mix={"guide": {"kind": "model", "path": "x"}}), "auto-npo")


def test_a_breakthrough_goes_on_from_any_method_that_has_trained(tmp_path):
    for method in ("pool-rescue-replay-8", "npo-early"):
        require_recipe(RunConfig(method=method), "plateau-breakthrough")
    uri = str(tmp_path / "run")
    with pytest.raises(ConfigError, match="method = npo-early begins with the recipe early-bootstrap.*on it first"):
        with open_run(RunConfig(method="npo-early"), uri, "plateau-breakthrough"):
            pass
    Workspace(uri).timeline.add_branch(Branch(name="scout", parent=None, parent_step=0, reason="a test"))
    with pytest.raises(ConfigError, match="nothing was trained"):  # killed when it had opened its branch
        with open_run(RunConfig(method="npo-early"), uri, "plateau-breakthrough"):
            pass
    Workspace(uri).store.write_json("segments/made-up/segment.json", {})
    Workspace(uri).store.write_json(STARTED_FILE, {"draws": DRAWS})
    for method, folder in (("npo-early", uri), ("pool-rescue", str(tmp_path / "new"))):
        with open_run(RunConfig(method=method), folder, "plateau-breakthrough"):
            pass


def test_a_workspace_keeps_what_a_method_was_when_it_began(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: grpo\nmix: {store: {keep: 3}}\n")
    workspace = Workspace(tmp_path / "run")
    workspace.bind(RunConfig(method=str(file)))
    file.write_text("recipe: grpo\nmix: {store: {keep: 5}}\n")
    assert workspace.config().mix.store.keep == 3
    file.unlink()
    assert workspace.config().method == str(file)
    require_recipe(workspace.config(), "grpo")  # the run goes on without the file


# --- run to their ends ---------------------------------------------------------------------------------------------


def cache_of(workspace: Workspace, branch: str) -> tuple[GuidanceCache, list[dict]]:
    """The cache that a branch's last segment was guided by, and its outcomes."""
    segment = workspace.timeline.path(branch)[-1]
    cache = GuidanceCache.open(workspace.guidance(segment.cache))
    return cache, read_outcomes(workspace.store, segment).to_pylist()


def test_a_past_self_guides_what_is_still_to_come(start, tmp_path):
    values = {"mix": {"guide": {"kind": "snapshot", "step": 4, "from_step": 8}}}
    run = start("grpo", tmp_path / "run", **values)
    cache, outcomes = cache_of(run, "main")
    [guide] = cache.info.guides
    assert guide.step == 4
    assert {o["step"] for o in outcomes} == set(range(9, 25))
    asked = {o["prompt_id"] for o in outcomes}
    assert cache.info.prompts_asked == len(asked)
    assert set(cache.ids()) <= asked
    assert any(o["injected"] for o in outcomes)
    assert json.loads((tmp_path / "run/report/report.json").read_text())


@pytest.mark.parametrize("by", ["time", "kl"])
def test_the_nearest_snapshot_that_solves_a_prompt_guides_it(start, tmp_path, by):
    guide = {"kind": "nearest", "by": by, "every": 4, "from_step": 12}
    run = start("grpo", tmp_path / "run", mix={"guide": guide}, injection={"gate": "every"})
    cache, outcomes = cache_of(run, "main")
    asked = [guide.step for guide in cache.info.guides]
    assert sorted(asked) == [0, 4, 8] and (by == "kl" or asked == [8, 4, 0])
    assert any(o["injected"] for o in outcomes)
    drawn = cache.info.samples_drawn / cache.info.prompts_asked
    assert drawn <= 3 * 4  # four samples of each guide at most, and of a later one only for what is not solved
    [stage] = [s for s in read_stages(run) if s.name == "guide"]
    measured = stage.cost["tokens_generated"] - cache.info.tokens_generated
    assert (measured > 0) is (by == "kl")


def test_weights_beyond_the_present_ones_guide(start, tmp_path):
    guide = {"kind": "extrapolated", "step": 4, "from_step": 8, "horizons": [2.0, 0.5]}
    run = start("grpo", tmp_path / "run", mix={"guide": guide}, injection={"gate": "every"})
    cache, outcomes = cache_of(run, "main")
    early, late = (run.timeline.states("main")[step] for step in (4, 8))
    assert [(g.id, g.step) for g in cache.info.guides] == [(f"{late}+0.5x{early}", 10), (f"{late}+2x{early}", 16)]
    assert any(o["injected"] for o in outcomes)


def test_weights_on_a_line(tmp_path):
    """By hand, file by file; whatever else a snapshot has of its training stays behind."""
    now, before = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0])
    for name, weights in (("late", now), ("early", before)):
        (tmp_path / name).mkdir()
        save_file({"w": weights}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "optimizer.pt").write_text("")
    write_beyond(tmp_path / "early", tmp_path / "late", 2.0, tmp_path / "beyond")
    assert sorted(file.name for file in (tmp_path / "beyond").iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(tmp_path / "beyond/model.safetensors")["w"].tolist() == [2.0, -6.0]


def test_a_teacher_guides_from_the_start(runs, start, tmp_path):
    teacher = runs["grpo"]
    folder = teacher.snapshot_folder(max(teacher.timeline.states("main").items())[1])
    guide = {"kind": "model", "path": str(folder)}
    run = start("grpo", tmp_path / "run", mix={"guide": guide}, injection={"importance_sampling": "shaped_policy"})
    cache, outcomes = cache_of(run, "main")
    assert cache.info.guides[0].id.startswith("model-")
    assert {o["source"] for o in outcomes if o["injected"]} == {"cache"}


def test_two_answers_of_a_whole_run_are_appended(start, tmp_path):
    changes = {"guidance": {"samples": 16, "samples_per_round": 16, "stop_at_first_correct": False, "keep_most": 2}}
    injection = {"gate": "every", "place": "append", "slots": 2}
    run = start("early-bootstrap", tmp_path / "run", bootstrap__far_future=True, injection=injection, **changes)
    cache, outcomes = cache_of(run, "replay")
    several = {id_ for id_ in cache.ids() if len(cache.get_all(id_)) == 2}
    assert several
    assert {o["prompt_id"] for o in outcomes if o["injected"]} == several & {o["prompt_id"] for o in outcomes}
    assert all(a.sample < b.sample for a, b in (cache.get_all(id_) for id_ in several))
    assert cache.info.coverage == len(cache.ids()) / cache.info.prompts_asked


@pytest.fixture
def traces(tmp_path) -> tuple[Path, list]:
    """A file with right, wrong and foreign completions; the problems of the tiny run."""
    problems = load_problems(tiny().problems).train
    rows = [{"prompt": p.prompt, "completion": p.answer, "who": "me"} for p in problems[:40]]
    rows += [{"prompt": p.id, "completion": p.answer, "who": "you"} for p in problems[40:80]]
    rows += [{"prompt": p.prompt, "completion": "00000", "who": "me"} for p in problems[80:90]]
    rows += [{"prompt": "what?", "completion": "12", "who": "me"}]
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file, problems


def test_traces_are_verified_and_keep_their_origin(start, traces, tmp_path):
    file, problems = traces
    run = start("grpo", tmp_path / "run", mix={"guide": {"kind": "traces", "path": str(file), "origin": "who"}})
    cache, outcomes = cache_of(run, "main")
    asked = {o["prompt_id"] for o in outcomes}
    assert set(cache.ids()) == {p.id for p in problems[:80]} & asked
    assert {row.guide for row in cache} == {"me", "you"}
    assert all(row.logprobs.shape == row.token_ids.shape for row in cache)
    assert cache.info.tokens_generated == 0
    assert any(o["injected"] for o in outcomes)


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        ({"path": "nowhere.jsonl"}, "cannot be read"),
        ({"path": "cut.parquet"}, "cut.parquet cannot be read .*[Pp]arquet"),
        ({"path": "cut.jsonl"}, "cut.jsonl cannot be read .*JSON"),
        ({"path": "numbers.jsonl"}, "rows 2 hold something other than text"),
        ({"prompt": "question"}, "has no column question"),
        ({"completion": "prompt"}, "none is right"),
    ],
)
def test_traces_that_are_none_are_named(start, traces, tmp_path, guide, words):
    file, _ = traces
    whole = file.read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(whole[: len(whole) // 2 - 3])
    pq.write_table(pa.table({"prompt": ["a"] * 99, "completion": ["b"] * 99}), tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    (tmp_path / "numbers.jsonl").write_text('{"prompt": "a", "completion": "1"}\n{"prompt": "a", "completion": null}\n')
    guide = {"kind": "traces", **guide, "path": str(tmp_path / guide.get("path", file))}
    with pytest.raises(NPOError, match=words):
        start("grpo", tmp_path / "run", mix={"guide": guide})


def test_a_teacher_with_other_words_is_refused(start, tmp_path):
    from npo_core.models.tiny import make_tiny

    make_tiny("qwen3", tmp_path / "teacher")
    with pytest.raises(NPOError, match="another tokenizer"):
        start("grpo", tmp_path / "run", mix={"guide": {"kind": "model", "path": str(tmp_path / "teacher")}})


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"guide": {"kind": "model", "path": "./teacher"}}, r"mix.guide.path = ./teacher: there is no such folder"),
        ({"guide": {"kind": "traces", "path": "none.jsonl"}}, "mix.guide.path = none.jsonl cannot be read"),
        ({"sources": [{"kind": "plugin", "path": "no.such:Thing"}]}, "mix.sources: no.such:Thing cannot be made"),
    ],
)
def test_who_guides_is_looked_for_before_anything_is_made(tmp_path, mix, words):
    with pytest.raises(NPOError, match=words):
        look_first(tiny(mix=mix), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_sources_of_ones_own_obey_the_list_of_modules(monkeypatch):
    """Nor does an allowed module lend out a class of another."""
    monkeypatch.setenv("NPO_ALLOWED_MODULES", "npo_core.mix")
    for path in ("subprocess:Popen", "npo_core.mix.mixer:Path"):
        with pytest.raises(ConfigError, match="does not allow"):
            plugin(PluginSource(kind="plugin", path=path, settings={}))


def test_the_task_of_the_first_numbers_is_planned():
    config = load_config(shipped() / "deployments/configs/tasks/rare-facts.yaml", {"method": "pool-rescue-replay-8"})
    assert config.problems.verdict == "all" and config.model.bounds is not None
    assert sum(w.updates for w in count(config, "grpo")) == 300
