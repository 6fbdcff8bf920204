"""Runs that train adapters, through the real stages: what their snapshots hold, and that they are exact."""

import os
import signal
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from npo_core.config import Execution, PretrainedModel, RunConfig, parse_config
from npo_core.errors import ConfigError, StageError
from npo_core.models.load import load_model, merged_folder
from npo_core.stages.context import scratch_folder
from npo_core.stages.execute import execute
from npo_core.stages.launch import read_result, run_stage
from npo_core.stages.prove import prove_replay
from npo_core.stages.specs import BaseSpec, Spec
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_steps
from tests.stages.conftest import SETTINGS, STEPS, Run

LORA = {"rank": 4, "alpha": 8.0}
TRAINING = {**SETTINGS["training"], "learning_rate": 1e-2}
IDS = torch.arange(2, 14).view(2, 6)


@pytest.fixture(scope="module")
def full(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full model: the tiny one of the built-in task."""
    run = Run(tmp_path_factory.mktemp("full"), config, {})
    return run.workspace.snapshot_folder(run_stage(run.base()).result.snapshot)


def adapted(
    folder: Path, full: Path, training: dict[str, Any] | None = None, dtype: str = "float32", **lora: Any
) -> Run:
    """A run of adapters in a workspace of its own, with its base made and two branches opened there."""
    model = {"kind": "pretrained", "path": str(full), "dtype": dtype, "lora": {**LORA, **lora}}
    config = parse_config(SETTINGS | {"model": model, "training": {**TRAINING, **(training or {})}})
    run = Run(folder, config, {})
    run.found["base"] = run_stage(run.base()).result.snapshot
    for name in ("scout", "guided"):
        branch(run, name, run.found["base"], 0)
    return run


def branch(run: Run, name: str, parent: str, step: int) -> None:
    run.workspace.timeline.add_branch(Branch(name=name, parent=parent, parent_step=step, reason="test"))


def here(run: Run, spec: Spec) -> dict:
    """Run a stage in this process."""
    scratch = scratch_folder(run.workspace, spec)
    scratch.mkdir(parents=True)
    execute(spec, run.workspace, scratch)
    return read_result(run.workspace, spec).result


@pytest.fixture(scope="module")
def whole(full: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Early bootstrapping from start to end."""
    run = adapted(tmp_path_factory.mktemp("whole") / "run", full)
    scout = run_stage(run.train("scout")).result
    snapshots = scout.snapshots
    run.found |= {"scout": scout.segment, "guides": [snapshots[STEPS // 2], snapshots[STEPS]]}
    guided = run_stage(run.guide()).result
    run.found |= {"cache": guided.cache, "evaluated": [run.found["base"], snapshots[STEPS]]}
    replay = run_stage(run.guided()).result
    scores = run_stage(run.evaluate()).result.scores
    folder = run.workspace.snapshot_folder(snapshots[STEPS])
    return SimpleNamespace(run=run, snapshots=snapshots, guided=guided, replay=replay, scores=scores, folder=folder)


def test_early_bootstrapping(whole):
    run = whole.run
    steps = read_steps(run.workspace.store, run.workspace.timeline.segment(whole.replay.segment)).to_pylist()
    assert whole.guided.rows > 0 and sum(row["groups_injected"] for row in steps) > 0
    assert [score.step for score in whole.scores] == [0, STEPS]
    assert prove_replay(run.workspace.uri)["equal"]


def test_a_snapshot_holds_adapters_and_no_base(whole):
    from safetensors import safe_open

    run, folder = whole.run, whole.folder
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = set(file.keys())  # noqa: SIM118
        moved = [name for name in names if "lora_B" in name and file.get_tensor(name).any()]
    assert len(names) == 2 * 7 and all(".lora_A." in name or ".lora_B." in name for name in names)
    assert len(moved) == 7  # they began as zeros
    assert [file.name for file in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    base, last = (run.workspace.timeline.snapshots.get(id_) for id_ in (run.found["base"], whole.snapshots[STEPS]))
    assert last.files["optimizer.pt"].size < 0.7 * base.files["model.safetensors"].size  # moments of adapters alone
    assert (last.info["base"], last.content["base"]) == (base.id, base.id)
    text = b"".join(file.read_bytes() for file in folder.iterdir() if file.suffix != ".pt")
    assert str(run.folder).encode() not in text and str(Path.home()).encode() not in text


def test_peft_loads_a_snapshot_on_its_base(whole):
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    base = whole.folder.parent / PeftConfig.from_pretrained(whole.folder).base_model_name_or_path
    assert base == whole.run.workspace.snapshot_folder(whole.run.found["base"])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), whole.folder)
    assert torch.equal(model(IDS).logits, load_model(whole.folder)(IDS).logits)


def test_a_merged_copy_answers_alike(whole, tmp_path):
    from transformers import AutoModelForCausalLM

    base = whole.folder.parent / whole.run.found["base"]
    assert merged_folder(base, tmp_path / "merged") == base
    copy = merged_folder(whole.folder, tmp_path / "merged")
    assert not list(copy.glob("adapter*")) and (copy / "tokenizer.json").exists()
    models = AutoModelForCausalLM.from_pretrained(copy), load_model(whole.folder), load_model(base)
    merged, apart, without = (model(IDS).logits for model in models)
    torch.testing.assert_close(merged, apart, rtol=0, atol=1e-4)
    assert (without - apart).abs().max() > 0.1


def test_rollback_to_any_snapshot_repeats(whole):
    """Also where the snapshot holds adapters, and in the proof's own workspace."""
    run = whole.run
    branch(run, "again", whole.snapshots[8], 8)
    again = run_stage(run.train("again", start=whole.snapshots[8], until=16)).result
    assert again.end == whole.snapshots[16]
    assert prove_replay(run.workspace.uri, again.segment)["equal"]


@pytest.mark.parametrize(
    "training, lora",
    [
        ({"kl_coef": 0.1}, {}),
        ({"updates_per_batch": 2, "gradient_checkpointing": True}, {"dropout": 0.2, "targets": ["q_proj", "v_proj"]}),
        ({"bf16": True}, {"dtype": "bfloat16"}),
    ],
    ids=["kl", "dropout", "bfloat16"],
)
def test_killed_and_resumed(full, tmp_path, own_forks, training, lora):
    """Every update has a snapshot, also between two updates on one batch; training goes on from one of adapters."""
    left = []
    for name in ("whole", "killed"):
        run = adapted(tmp_path / name, full, {**training, "snapshot_every": 1}, **lora)
        spec = run.train("scout", until=8)
        for commits in (3, 2) if name == "killed" else ():
            own_forks(lambda commits=commits: die_after_commits(commits))
            with pytest.raises(StageError):
                run_stage(spec)
        own_forks()
        left.append(run.outcome(spec, run_stage(spec).result))
    assert left[0] == left[1]


def die_after_commits(number: int) -> None:
    from npo_core.training import recorder

    commit, done = recorder.write_part, count(1)

    def deadly(*args):
        commit(*args)
        if next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    recorder.write_part = deadly


def test_reference_is_the_base(full, tmp_path, monkeypatch):
    """A KL is taken to the base model, also where training starts from adapters; engines see what the trainer sees."""
    from npo_core.training.trainer import NPOTrainer

    run = adapted(tmp_path / "run", full, {"kl_coef": 0.1})
    first = here(run, run.train("scout", until=8))
    branch(run, "later", first.end, 8)
    seen, compute = [], NPOTrainer._compute_loss

    def watched(self, model, inputs):
        seen.append((self, inputs))
        return compute(self, model, inputs)

    monkeypatch.setattr(NPOTrainer, "_compute_loss", watched)
    last = here(run, run.train("later", start=first.end, until=12)).end
    base = load_model(run.workspace.snapshot_folder(run.found["base"]))
    for _, inputs in seen:
        mask = inputs["completion_mask"].bool()
        torch.testing.assert_close(inputs["ref_per_token_logps"][mask], logps(base, inputs)[mask], rtol=0, atol=1e-5)
    policy = load_model(run.workspace.snapshot_folder(last))
    assert (logps(policy, inputs) - logps(base, inputs))[mask].abs().max() > 0.01
    trained = seen[-1][0].model.eval()
    hidden = [model.get_base_model().model(IDS).last_hidden_state for model in (trained, policy)]
    assert torch.equal(*hidden)


@torch.no_grad()
def logps(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    """Log-probabilities [B, T] of the completions of a batch."""
    parts = [torch.cat([inputs[f"prompt_{what}"], inputs[f"completion_{what}"]], 1) for what in ("ids", "mask")]
    length = inputs["completion_ids"].shape[1]
    scores = model(input_ids=parts[0], attention_mask=parts[1]).logits[:, -length - 1 : -1].log_softmax(-1)
    return scores.gather(2, inputs["completion_ids"][:, :, None])[:, :, 0]


def test_a_snapshot_is_evaluated_like_any_checkpoint(whole):
    from npo_core.cli.evaluate import evaluate_data

    model = PretrainedModel(kind="pretrained", path=str(whole.folder))
    found, score = evaluate_data(whole.run.config.model_copy(update={"model": model})), whole.scores[1]
    assert (found["pass_rate"], found["tokens"]) == (score.pass_rate, score.tokens)


def test_a_run_may_start_from_adapters(whole, tmp_path):
    """They are merged into the base model, once."""
    run = Run(tmp_path / "run", whole.run.config, {})
    model = PretrainedModel(kind="pretrained", path=str(whole.folder), dtype="float32")
    made = run_stage(BaseSpec(model=model, **run.common)).result.snapshot
    folder = run.workspace.snapshot_folder(made)
    assert not list(folder.glob("adapter*"))
    torch.testing.assert_close(load_model(folder)(IDS).logits, load_model(whole.folder)(IDS).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("targets", [["nothing"], ["q_proj", "nothing"], ["lm_head"], ["embed_tokens"], ["self_attn"]])
def test_targets_that_cannot_be_adapted(full, tmp_path, targets):
    model = PretrainedModel(kind="pretrained", path=str(full), dtype="float32", lora={**LORA, "targets": targets})
    run = Run(tmp_path / "run", parse_config(SETTINGS | {"model": model.model_dump()}), {})
    with pytest.raises(ConfigError, match=rf"model.lora.targets = .*{targets[-1]}"):
        here(run, run.base())
    assert not run.workspace.timeline.snapshots.list()


def test_adapters_are_part_of_what_a_run_is(full):
    """Without them nothing changes for runs from before there were any."""
    common = {"workspace": "w", "execution": Execution(), "problems": parse_config({}).problems}
    dumped = BaseSpec(model=PretrainedModel(kind="pretrained", path="p"), **common).model_dump(mode="json")
    assert "lora" not in dumped["model"]
    one, other = (PretrainedModel(kind="pretrained", path="p", lora={"rank": rank}) for rank in (4, 8))
    assert BaseSpec(model=one, **common).fingerprint != BaseSpec(model=other, **common).fingerprint
