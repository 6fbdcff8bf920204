"""Tiny random models of real classes through all stages of early bootstrapping, pictures included."""

import functools
import hashlib
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen3VLModel as VL

from npo_core.engines.prefill import shared_prefill
from npo_core.engines.sampling import Running
from npo_core.engines.transformers import TransformersEngine
from npo_core.errors import ConfigError, DataError
from npo_core.models.inputs import prompt_inputs
from npo_core.models.load import load_model, load_processor
from npo_core.stages.context import StageContext
from npo_core.stages.problems import run_problems
from npo_core.stages.prove import compare, respecify
from npo_core.stages.specs import EvaluateSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_outcomes
from npo_core.training import vision
from npo_core.training.build import grpo_config
from npo_core.training.trainer import NPOTrainer
from tests.models.conftest import TRAINING

PATCH_TOKENS = 4  # patches that Qwen3-VL merges into one token


def text_rows(folder) -> list[dict]:
    return [{"question": f"{n}?", "answer": "x"} for n in range(12)]


def hashed(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def as_rows(inputs: dict) -> list[tuple]:
    """Of each row of model inputs: the prompt's token ids without padding, and hashes of its pictures."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    grids = iter(inputs["image_grid_thw"].tolist() if inputs.get("image_grid_thw") is not None else [])
    start, rows = 0, []
    for row in [i[m].tolist() for i, m in zip(ids, mask, strict=True)]:
        left, pictures = row.count(5), []  # <|image_pad|>
        while left:
            size = int(torch.tensor(next(grids)).prod())
            pictures.append(hashed(inputs["pixel_values"][start : start + size]))
            start, left = start + size, left - size // PATCH_TOKENS
        rows.append((tuple(row), *pictures))
    return rows


def meant(run) -> set[tuple]:
    """What the model's own processor makes of every chat with its pictures."""
    processor, found = load_processor(run.model.path), set()
    for line, row in enumerate(map(json.loads, open(run.problems.train.path))):
        pictures = iter(Image.open(run.folder / name) for name in row["image"])
        places = {0: ["from ", None, " to ", None, "?"], 1: ["1?"]}.get(line, [None, row["question"]])
        parts = [
            {"type": "image", "image": next(pictures)} if part is None else {"type": "text", "text": part}
            for part in places
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        found |= set(as_rows(inputs))
    return found


@pytest.mark.parametrize(
    "kind, fields",
    [("qwen3", {"rows": text_rows}), ("qwen3_vl", {}), ("qwen3_vl", {"lora": {"rank": 2}})],
    ids=["qwen3", "qwen3_vl", "adapters"],
)
def test_early_bootstrapping(run, kind, fields, tmp_path):
    run = run(kind, **fields)
    base = run.base()
    scout = run.train("scout", base)
    guided = run.guide(scout, base)
    assert guided.asked == 8 and guided.rows > 0
    replay = run.train("replay", base, guided.cache)
    assert sum(row["groups_injected"] for row in replay.steps) > 0
    assert [score.problems for score in run.evaluate(base, replay.record.end)] == [4, 4]
    copy = Workspace(tmp_path / "proof")
    result = run(respecify(run.workspace, copy, scout.record, 4))
    proof = compare(run.workspace, scout.record, copy, copy.timeline.segment(result.segment), 4)
    assert len(proof) == 4 and all(row["equal"] for row in proof), proof


def test_training_and_generation_see_the_same_tokens_and_pixels(run, monkeypatch):
    run = run("qwen3_vl")
    seen: dict[str, set] = {"rollout": set(), "loss": set(), "engine": set()}
    forward, place = VL.forward, "rollout"

    def watched_prefill(model, inputs, prompt_of):
        seen[place].update(as_rows(inputs))
        return shared_prefill(model, inputs, prompt_of)

    @functools.wraps(forward)  # whose parameters are looked at
    def watched_forward(self, *args, **kwargs):
        if (layout := kwargs.get("layout")) is not None:
            seen["loss"].update(as_rows(kwargs | prompts_of(kwargs["input_ids"][0], layout)))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr("npo_core.engines.sampling.shared_prefill", watched_prefill)
    monkeypatch.setattr(VL, "forward", watched_forward)
    expected, base = meant(run), run.base()
    scout = run.train("scout", base)
    place = "engine"
    run.guide(scout, base)
    run.evaluate(base)
    assert len(expected) == 12 and sorted(map(len, expected)) == [1, *[2] * 10, 3]
    assert seen["engine"] == expected  # 8 are trained on, 4 held out
    assert len(seen["rollout"]) == 8 and seen["rollout"] < expected
    assert 4 < len(seen["loss"]) and seen["loss"] <= seen["rollout"]  # of prompts without advantage, none


def prompts_of(ids: torch.Tensor, layout) -> dict[str, torch.Tensor]:
    """The prompts of a packed row, padded."""
    real = [row.count_nonzero() + (i == 0) for i, row in enumerate(layout.prompts)]  # the first one's place 0 is real
    rows = [ids[row[:n]] for row, n in zip(layout.prompts, real, strict=True)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = [torch.ones(len(row)) for row in rows]
    return {"input_ids": padded, "attention_mask": torch.nn.utils.rnn.pad_sequence(mask, batch_first=True)}


def problems_seen(run, base: str):
    """The training problems as a stage sees them."""
    context = StageContext(run.workspace, run.workspace.scratch, "cpu")
    spec = EvaluateSpec(evaluation={}, max_completion_tokens=2, snapshots=[base], **run.common)
    return run_problems(spec, context, run.workspace.timeline.snapshots.get(base)).train


@pytest.mark.parametrize("bf16", [False, True])
def test_the_trainer_scores_a_guide_as_the_engine_does(run, monkeypatch, bf16):
    """At the first update of a replay the policy is the base: its log-probabilities of what the guide wrote."""
    run = run("qwen3_vl")
    base = run.base()
    cache = run.guide(run.train("scout", base), base).cache
    found: list[tuple] = []
    relate = NPOTrainer._relate_to_guide

    def watched(self, inputs, policy_logps):
        for number, mask, ids, logps in zip(
            inputs["prompt_numbers"].tolist(), inputs["guide_mask"].bool(), inputs["completion_ids"], policy_logps,
            strict=True,
        ):  # fmt: skip
            if mask.any() and self.state.global_step == 0:
                found.append((number, ids[mask].tolist(), logps[mask]))
        return relate(self, inputs, policy_logps)

    monkeypatch.setattr(NPOTrainer, "_relate_to_guide", watched)
    run.train("replay", base, cache, bf16=bf16)
    assert len(found) >= 2
    problems = [problems_seen(run, base)[number] for number, *_ in found]
    folder, asked = run.workspace.timeline.snapshots.folder(base, run.folder), [ids for _, ids, _ in found]
    trained = torch.cat([logps for *_, logps in found]).float()
    far = {}
    for precision in (False, True):
        scores = TransformersEngine(folder, bf16=precision).score(problems, asked)
        far[precision] = (torch.tensor(np.concatenate(scores)) - trained).abs().mean()
    assert far[bf16] < 1e-5 < far[not bf16]


def test_a_snapshot_inside_a_window_goes_on_exactly(run):
    """Its pictures are read anew; they are no part of it."""
    run = run("qwen3_vl")
    base = run.base()
    changes = {"updates_per_batch": 2, "snapshot_every": 1, "micro_batch": 4, "kl_coef": 0.01}
    whole = run.train("whole", base, until=4, **changes)
    half = run.train("half", whole.record.snapshots[1], until=4, **changes)
    assert half.record.snapshots == {step: whole.record.snapshots[step] for step in (2, 3, 4)}
    buffer = run.workspace.store.local(f"snapshots/{whole.record.snapshots[1]}/npo_buffer.pt")
    assert all("pixel_values" not in batch for batch in torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_vl"])
def test_gradient_checkpointing_changes_no_bit(run, kind, monkeypatch):
    used, step = [], NPOTrainer.training_step
    monkeypatch.setattr(
        NPOTrainer, "training_step", lambda s, *a: used.append(s.model.is_gradient_checkpointing) or step(s, *a)
    )
    run = run(kind, **({"rows": text_rows} if kind == "qwen3" else {}))
    base = run.base()
    plain, checked = (run.train(f"b{on}", base, until=2, gradient_checkpointing=on) for on in (False, True))
    assert used == [False] * 4 + [True] * 4
    assert plain.record.snapshots == checked.record.snapshots


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_vl"])
def test_rollouts_of_a_few_rows_at_once(run, kind, monkeypatch):
    """No more at once than asked for, and pictures once for those that come together; the tokens are those of all."""
    run = run(kind, **({"rows": text_rows} if kind == "qwen3" else {}))
    base, store, asked, steps = run.base(), run.workspace.store, [], []

    def watched(model, inputs, prompt_of):
        asked.append((len(prompt_of), len(inputs["input_ids"]), len(inputs.get("image_grid_thw", ()))))
        return shared_prefill(model, inputs, prompt_of)

    def forward(self, model):
        steps.append(len(self.places))
        return Running.forward(self, model)

    monkeypatch.setattr("npo_core.engines.sampling.shared_prefill", watched)
    monkeypatch.setattr("npo_core.engines.sampling.Running", type("Watched", (Running,), {"forward": forward}))
    whole = run.train("whole", base, until=2)
    assert [rows for rows, *_ in asked] == [16, 16] and [prompts for _, prompts, _ in asked] == [4, 4]
    assert all(pictures in ((0,) if kind == "qwen3" else range(1, 5)) for *_, pictures in asked)
    asked.clear(), steps.clear()
    few = run.train("few", base, until=2, generation_batch=6)
    assert sum(rows for rows, *_ in asked) == 32 and max(rows for rows, *_ in asked) == max(steps) == 6
    assert all(prompts <= (rows + 6) // 4 for rows, prompts, _ in asked)  # groups of 4, in order
    assert read_outcomes(store, few.record) == read_outcomes(store, whole.record)
    again = run.train("again", base, until=2, generation_batch=6)
    one = run.train("one", base, until=2, generation_batch=16)
    assert again.record.snapshots == few.record.snapshots and one.record.snapshots == whole.record.snapshots


def test_a_model_that_sees_trains_on_text(run):
    run = run("qwen3_vl", rows=text_rows)
    base = run.base()
    scout = run.train("scout", base)
    replay = run.train("replay", base, run.guide(scout, base).cache)
    assert sum(row["groups_injected"] for row in replay.steps) > 0


def test_pictures_that_vanish_stop_a_stage_before_it_trains(run):
    run = run("qwen3_vl")
    base = run.base()
    (run.folder / "4.png").unlink()
    with pytest.raises(DataError, match=r"1 images are gone or have changed.*\n.*4\.png"):
        run.train("scout", base)


def test_attention_is_the_one_that_is_chosen(run, monkeypatch):
    run = run("qwen3", rows=text_rows, attention="eager")
    base = run.base()
    used, init = [], NPOTrainer.__init__
    monkeypatch.setattr(NPOTrainer, "__init__", lambda self, model, **k: used.append(model) or init(self, model, **k))
    scout = run.train("scout", base, until=2)
    assert [model.config._attn_implementation for model in used] == ["eager"]
    assert run.workspace.timeline.snapshots.get(scout.record.end).info["attention"] == "eager"


def test_attention_that_is_not_there_is_refused_at_once(run):
    with pytest.raises(ConfigError, match="model.attention = flash_attention_2 cannot be used"):
        run("qwen3", rows=text_rows, attention="flash_attention_2").base()


@pytest.mark.parametrize(("dtype", "bf16"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_weights_keep_the_number_format_that_is_chosen(run, dtype, bf16):
    """Mixed precision computes in bfloat16 and leaves the weights as they are."""
    run = run("qwen3_vl", dtype=dtype)
    base = run.base()
    end = run.train("scout", base, until=2, bf16=bf16).record.end
    folders = [run.workspace.timeline.snapshots.folder(id_, run.folder) for id_ in (base, end)]
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert {str(value.dtype) for value in after.values()} == {f"torch.{dtype}"}
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_images_are_read_once_a_batch_and_prompt(run, monkeypatch):
    run = run("qwen3_vl")
    base = run.base()
    read = []
    monkeypatch.setattr(vision, "prompt_inputs", lambda *given: read.append(given[1]) or prompt_inputs(*given))
    run.train("scout", base, updates_per_batch=2, micro_batch=4)
    assert len(read) == 8 and len(set(read[:4])) == len(set(read[4:])) == 4  # two batches of 4 prompts


def test_chats_with_an_image_column_stay_with_trl(tiny, tmp_path):
    """The trainer is a drop-in there, too."""
    picture = Image.new("RGB", (40, 40), "red")
    chats = [{"prompt": [{"role": "user", "content": f"{n}?"}], "image": picture} for n in range(4)]
    trainer = NPOTrainer(
        load_model(tiny("qwen3_vl")),
        reward_funcs=lambda completions, **_: [float(len(c[0]["content"]) % 2) for c in completions],
        args=grpo_config(TRAINING.model_copy(update={"steps": 1}), seed=0, output=tmp_path, device="cpu"),
        train_dataset=Dataset.from_list(chats),
        processing_class=load_processor(tiny("qwen3_vl")),
    )
    seen, loss = [], trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: seen.append(inputs) or loss(model, inputs)
    trainer.train()
    pixels = prompt_inputs(trainer.processing_class, "<|image_pad|>", [picture]).by_image["pixel_values"]
    assert len(seen) == 2 and all(torch.equal(batch["pixel_values"], pixels.repeat(8, 1)) for batch in seen)
