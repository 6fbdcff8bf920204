"""Problems from data through the real stages: early bootstrapping of a tiny model whose tokenizer adds a BOS."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_data import SPECIAL, data, make_tokenizer, write_jsonl

from npo_core.config import Evaluation, Execution, Guidance, Injection, PretrainedModel, Training
from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.stages.context import StageContext, scratch_folder
from npo_core.stages.execute import execute
from npo_core.stages.launch import read_result, run_stage
from npo_core.stages.problems import run_problems
from npo_core.stages.prove import respecify
from npo_core.stages.specs import BaseSpec, EvaluateSpec, GuideSpec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch

EXECUTION = Execution(device="cpu", threads=1)
TRAINING = Training(steps=4, prompts_per_step=4, group_size=4, max_completion_tokens=8, snapshot_every=2)
ANY_END = {"answer_pattern": "^()"}  # every completion that ends by itself is right: a random model has some
ANY_END_TOO = {"any": {"kind": "format", "pattern": "^"}}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A random Qwen3 of a few thousand parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=SPECIAL.index("<|end|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Run:
    """A workspace whose stages run in this process."""

    def __init__(self, folder: Path, model: Path, **problems):
        self.workspace, self.model = (
            Workspace(folder / "workspace"),
            PretrainedModel(kind="pretrained", path=str(model), dtype="float32"),
        )
        rows = [{"question": f"{n}?", "answer": chr(ord("a") + n)} for n in range(12)]
        self.source = write_jsonl(folder / "rows.jsonl", rows)
        self.problems = data(train={"path": self.source}, held_out_rows=4, **{**ANY_END, **problems})
        self.common = {"workspace": self.workspace.uri, "execution": EXECUTION, "problems": self.problems}

    def __call__(self, spec) -> dict:
        scratch = scratch_folder(self.workspace, spec)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self.workspace.store.write_json(f"{spec.folder}/spec.json", spec.model_dump(mode="json"))
        execute(spec, self.workspace, scratch)
        return read_result(self.workspace, spec).result

    def base(self) -> dict:
        return self(BaseSpec(model=self.model, **self.common))

    def train(self, branch: str, start: str, cache: str | None = None) -> TrainSpec:
        self.workspace.timeline.add_branch(Branch(name=branch, parent=start, parent_step=0, reason="test"))
        return TrainSpec(
            training=TRAINING, injection=Injection(), seed=1, sampling_seed=2, branch=branch, start=start, until=4,
            cache=cache, **self.common,
        )  # fmt: skip

    def seen(self, snapshot: str):
        """The problems as a stage sees them."""
        context = StageContext(self.workspace, self.workspace.scratch, "cpu")
        spec = EvaluateSpec(evaluation=Evaluation(), max_completion_tokens=2, snapshots=[snapshot], **self.common)
        return run_problems(spec, context, self.workspace.timeline.snapshots.get(snapshot))


@pytest.fixture
def run(tmp_path, model):
    return Run(tmp_path, model)


def guide_spec(run: Run, scout: dict, base: str) -> GuideSpec:
    return GuideSpec(
        training=TRAINING, guidance=Guidance(samples=32, samples_per_round=16, skip_passed=False), tau_gate=0.6, seed=1,
        guides=[scout.end], rollback=base, segments=[scout.segment], **run.common,
    )  # fmt: skip


def test_early_bootstrapping_on_data(run, monkeypatch):
    from npo_core.engines.transformers import TransformersEngine
    from npo_core.training.trainer import NPOTrainer

    given: dict[str, list[list[int]]] = {"trainer": [], "engine": []}
    generate, sample = NPOTrainer._generate, TransformersEngine._sample

    def by_trainer(self, prompts, *args, **kwargs):
        generated = generate(self, prompts, *args, **kwargs)
        given["trainer"] += generated[0]
        return generated

    def by_engine(self, problems, *args, **how):
        given["engine"] += self.tokenizer([p.prompt for p in problems])["input_ids"]
        return sample(self, problems, *args, **how)

    monkeypatch.setattr(NPOTrainer, "_generate", by_trainer)
    monkeypatch.setattr(TransformersEngine, "_sample", by_engine)
    first = run.base()
    assert first.problems["train"]["problems"] == 8 and first.problems["held_out"]["problems"] == 4
    Path(run.source).unlink()  # what the first stage kept is what the run goes on with
    base = first.snapshot
    scout = run(run.train("scout", base))
    guided = run(guide_spec(run, scout, base))
    assert guided.asked == 8 and guided.rows > 0
    replay = run(run.train("replay", base, guided.cache))
    injected = sum(row["groups_injected"] for row in steps(run, replay))
    assert injected > 0
    spec = EvaluateSpec(evaluation=Evaluation(samples=2), max_completion_tokens=2, snapshots=[base], **run.common)
    assert run(spec).scores[0].problems == 4
    tokenizer = make_tokenizer()
    meant = {
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": f"{n}?"}], tokenize=True, add_generation_prompt=True, return_dict=False
            )
        )
        for n in range(12)
    }
    assert {ids.count(tokenizer.bos_token_id) for ids in map(list, meant)} == {1}
    assert set(map(tuple, given["trainer"])) <= meant and set(map(tuple, given["engine"])) == meant


def steps(run: Run, result: dict) -> list[dict]:
    from npo_core.timeline.segments import read_steps

    return read_steps(run.workspace.store, run.workspace.timeline.segment(result.segment)).to_pylist()


def test_a_cache_for_other_prompts_is_refused(run, tmp_path, model):
    base = run.base().snapshot
    cache = run(guide_spec(run, run(run.train("scout", base)), base)).cache
    for number, other in enumerate([{"system_prompt": "Count."}, {"chat": "never"}]):
        changed = Run(tmp_path, model, **other)
        with pytest.raises(DataError, match="problems"):
            changed(changed.train(f"replay-{number}", base, cache))


def test_problems_are_kept_and_damage_is_named(run):
    base = run.base().snapshot
    before = run.seen(base)
    (folder,) = Path(run.workspace.uri, "problems").iterdir()
    assert json.loads((folder / "problems.json").read_text()) == before.report
    shutil.rmtree(folder)
    again = run.seen(base)  # from the source
    assert (again.train, again.held_out, again.report) == (before.train, before.held_out, before.report)
    assert run.seen(base).train == before.train  # from what was kept anew
    (folder / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedError, match="train.parquet is damaged.*delete its folder"):
        run.seen(base)


def test_a_proof_has_the_problems_of_the_run(run, tmp_path):
    base = run.base().snapshot
    segment = run.workspace.timeline.segment(run(run.train("main", base)).segment)
    copy = Run(tmp_path / "copy", Path(run.model.path)).workspace
    respecify(run.workspace, copy, segment, 4)
    kept = [sorted(p.name for p in Path(w.uri, "problems").rglob("*")) for w in (run.workspace, copy)]
    assert kept[0] == kept[1] and "problems.json" in kept[0]


def test_too_few_problems_for_a_batch(run):
    base = run.base().snapshot
    spec = run.train("main", base)
    many = TRAINING.model_copy(update={"prompts_per_step": 9})
    with pytest.raises(ConfigError, match="There are 8 training problems, less than training.prompts_per_step = 9"):
        run(spec.model_copy(update={"training": many}))


def test_images_and_a_model_for_text(run, tmp_path, model):
    run.problems = data(train={"path": run.source, "columns": {"images": ["image"]}}, held_out_rows=4)
    run.common["problems"] = run.problems
    with pytest.raises(ConfigError, match=r"The problems have images \(column image\), but model.path = .* text alone"):
        run.base()


def test_a_model_that_is_none(run, tmp_path):
    run.model = PretrainedModel(kind="pretrained", path=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="there is no such folder"):
        run.base()


def test_relative_paths_start_where_the_command_was_started(run, tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("datasets.py").write_text("raise RuntimeError('a file of the user, no module of a stage')")
    run.common["execution"] = Execution(device="cpu", start="spawn")
    run.common["problems"] = data(train={"path": "rows.jsonl"}, held_out_rows=4, **ANY_END)
    result = run_stage(BaseSpec(model=run.model, **run.common))
    assert result.result.problems["train"]["problems"] == 8


def test_benchmarks_are_kept_and_scored(tmp_path, model):
    further = write_jsonl(tmp_path / "further.jsonl", [{"question": f"{n}!", "answer": "#"} for n in range(3)])
    run = Run(tmp_path, model, benchmarks={"further": {"path": further, "verifier": "any"}}, verifiers=ANY_END_TOO)
    base = run.base().snapshot
    Path(further).unlink()
    kept = run.seen(base).benchmarks["further"]
    assert len(kept) == 3 and {p.verifier for p in kept} == {"any"} and kept[0].prompt.count("0!") == 1
    snapshots = [base, run(run.train("main", base)).end]
    for asked, at in (("last", [False, True]), ("all", [True, True])):
        evaluation = Evaluation(samples=2, benchmarks=asked)
        result = run(EvaluateSpec(evaluation=evaluation, max_completion_tokens=8, snapshots=snapshots, **run.common))
        assert [bool(score.benchmarks) for score in result.scores] == at
        parts = [part for s in result.scores for part in [s, *s.benchmarks.values()]]
        assert {part.problems for part in parts} == {3, 4}
        assert result.cost.tokens_generated == sum(part.tokens for part in parts)
