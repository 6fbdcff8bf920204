"""Gradients and losses of NPOTrainer's updates against TRL's own, on batches made by hand and drawn."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from npo_core.problems.tokenizer import make_tokenizer
from npo_core.training import live_rows, shared_prompt
from npo_core.training.beside import GUIDE_LOGPS, GUIDE_MASK, RATIO, RATIOS
from npo_core.training.build import training_data
from npo_core.training.trainer import InjectionSettings, NPOTrainer

EXACT = 1e-5  # norm of the difference over the norm, all parameters together
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
VOCAB = 11


class Shape(NamedTuple):
    """A batch: tokens of each prompt, tokens of each completion of each prompt, advantages of the rows."""

    prompts: list[int]
    completions: list[list[int]]
    advantages: list[float]


MIXED = Shape([4, 1, 7], [[3, 5], [1, 6], [2, 2]], [1.0, -0.5, 0.0, 0.0, 0.3, 0.0])
CASES = {
    "one prompt": Shape([5], [[3, 3, 3]], [1.0, -1.0, 0.5]),
    "prompts of one token": Shape([1, 1], [[3, 2], [4, 1]], [1.0, -1.0, 0.5, -0.5]),
    "a dead group and a dead row": MIXED,
    "nothing live": Shape([3, 2], [[2, 3], [4, 1]], [0.0] * 4),
    "as long as each other": Shape([4, 4], [[3, 3], [3, 3]], [1.0, -1.0, 0.2, -0.2]),
}


def model(attention: str = "sdpa", **changes) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    fields = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = Qwen3Config(**fields | changes)
    config._attn_implementation = attention
    made = Qwen3ForCausalLM(config)
    for parameter in made.parameters():  # larger than at the start of training: more hangs on what is attended to
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def trainers(tmp_path_factory, home):
    """Makes TRL's trainer and NPOTrainer of the same model."""
    folder = tmp_path_factory.mktemp("gradients")

    def make(policy=model, **changes) -> tuple[GRPOTrainer, NPOTrainer]:
        from npo_core.problems.load import load_problems
        from tests.training.conftest import chain

        problems = training_data(load_problems(chain()))
        made = []
        for kind in (GRPOTrainer, NPOTrainer):
            fields = {"per_device_train_batch_size": 2, "num_generations": 2, "report_to": [], "use_cpu": True}
            fields["gradient_checkpointing"] = False
            args = GRPOConfig(str(folder), **{"bf16": False, "max_completion_length": 8} | fields | changes)
            tokenizer = make_tokenizer()
            trainer = kind(policy(), reward_funcs=len, args=args, train_dataset=problems, processing_class=tokenizer)
            trainer.remove_callback(PrinterCallback)
            trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
            made.append(trainer)
        return tuple(made)

    return make


def batch(shape: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    """What TRL makes of a rollout, with random tokens."""
    draw = torch.Generator().manual_seed(seed)
    width, longest = max(shape.prompts), max(map(max, shape.completions))
    ids, mask = [], []
    for length, group in zip(shape.prompts, shape.completions, strict=True):
        prompt = torch.randint(VOCAB, (length,), generator=draw).tolist()
        for tokens in group:
            completion = torch.randint(VOCAB, (tokens,), generator=draw).tolist()
            ids.append([0] * (width - length) + prompt + completion + [0] * (longest - tokens))
            mask.append([0] * (width - length) + [1] * (length + tokens) + [0] * (longest - tokens))
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    return {
        "prompt_ids": ids[:, :width],
        "prompt_mask": mask[:, :width],
        "completion_ids": ids[:, width:],
        "completion_mask": mask[:, width:],
        "advantages": torch.tensor(shape.advantages),
        "num_items_in_batch": mask[:, width:].sum(),
    }


def recorded(trainer: GRPOTrainer, inputs: dict) -> dict[str, torch.Tensor]:
    """What sampling from the trainer's model would have recorded."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    asked = (trainer.model, ids, mask, inputs["completion_ids"].shape[1])
    with torch.no_grad():
        logps, entropies, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, *asked, compute_entropy=True)
    return {live_rows.SAMPLED_LOGPS: logps, live_rows.SAMPLED_ENTROPIES: entropies}


def gradient(trainer: GRPOTrainer, inputs: dict) -> tuple[torch.Tensor, float, dict[str, float]]:
    """All gradients of a micro batch behind one another, its loss, and the metrics of it."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    with getattr(trainer, "_backward", nullcontext()):  # as around a step
        loss = trainer._compute_loss(trainer.model, dict(inputs))
        loss.backward()
    found = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad])
    return found, loss.item(), {name: values[-1] for name, values in trainer._metrics["train"].items()}


def assert_equal(trl: GRPOTrainer, npo: NPOTrainer, inputs: dict) -> None:
    expected, loss, metrics = gradient(trl, inputs)
    found, own_loss, own_metrics = gradient(npo, inputs | recorded(npo, inputs))
    assert npo._sharing
    distance, norm = (found - expected).norm().item(), expected.norm().item()
    assert distance <= EXACT * norm if norm else distance == 0
    assert own_metrics.pop("entropy_on_policy") == own_metrics["entropy"]  # no guide, and TRL has none
    assert own_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert own_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def second_update(trainer: GRPOTrainer, inputs: dict, seed: int) -> torch.Tensor:
    """Log-probabilities from which the policy has moved away."""
    logps = recorded(trainer, inputs)[live_rows.SAMPLED_LOGPS]
    return logps + 0.3 * torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed))


def set_loss(pair: tuple[GRPOTrainer, NPOTrainer], loss: str) -> tuple[GRPOTrainer, NPOTrainer]:
    for trainer in pair:
        trainer.loss_type, trainer.epsilon_high = loss, 3.0 if loss == "cispo" else 0.2
    return pair


@pytest.fixture(scope="module")
def pair(trainers):
    return trainers()


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_trls(pair, case):
    assert_equal(*set_loss(pair, "dapo"), batch(CASES[case]))


def test_masked_completions(pair):
    """Cut completions that TRL masks, and a batch of nothing else."""
    for rows in ([1, 4], [0, 1, 2, 3, 4, 5]):
        inputs = batch(MIXED)
        inputs["completion_mask"][rows] = 0
        inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
        trl, npo = set_loss(pair, "dapo")
        expected = gradient(trl, inputs)[0]
        assert (gradient(npo, inputs | recorded(npo, inputs))[0] - expected).norm() <= EXACT * expected.norm()
        assert bool(expected.norm()) == (len(rows) < 6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("old", [False, True])
def test_each_loss(pair, loss, old):
    """`old`: a second update on the batch, where ratios are not 1 and some are clipped."""
    inputs = batch(MIXED)
    if old:
        inputs["old_per_token_logps"] = second_update(pair[1], inputs, seed=1)
    assert_equal(*set_loss(pair, loss), inputs)


def test_the_losses_are_all_of_trls():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    named = "".join(line for line in source.splitlines() if "self.loss_type" in line)
    assert set(LOSSES) == set(re.findall(r'"(\w+)"', named))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_kinds_of_attention_and_checkpointing(trainers, attention, checkpointing):
    assert_equal(*trainers(lambda: model(attention), gradient_checkpointing=checkpointing), batch(MIXED))


def test_adapters(trainers):
    from peft import LoraConfig, get_peft_model

    def adapted():
        made = get_peft_model(model(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
        torch.manual_seed(1)
        for name, parameter in made.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return made

    assert_equal(*trainers(adapted), batch(MIXED))


def test_bfloat16(trainers):
    """As near as rounding is to what float32 gives, and TRL's own is no nearer."""
    exact = gradient(trainers()[0], batch(MIXED))[0]
    trl, npo = trainers(bf16=True)
    theirs, ours = gradient(trl, batch(MIXED))[0], gradient(npo, batch(MIXED) | recorded(npo, batch(MIXED)))[0]
    assert npo._sharing
    off = [((found - exact).norm() / exact.norm()).item() for found in (theirs, ours)]
    assert 1e-4 < off[1] < 1.5 * off[0] < 0.1


@pytest.mark.parametrize("correction", ["off", "guide"])
def test_a_guides_slot(trainers, correction):
    """Its ratio is 1, or that of the policy to the guide; it is computed even where its advantage is 0."""
    trl, npo = trainers()
    npo.injection_settings = InjectionSettings(importance_sampling=correction)
    shape = MIXED._replace(advantages=[1.0, -0.5, 0.0, 0.0, 0.3, 0.9])
    inputs = batch(shape)
    guide = torch.zeros_like(inputs["completion_ids"])
    guide[[3, 5]] = inputs["completion_mask"][[3, 5]]
    known = recorded(npo, inputs)[live_rows.SAMPLED_LOGPS]
    logps = torch.where(guide.bool(), known - 0.1, 0.0)
    expected = gradient(trl, inputs | ({"old_per_token_logps": known - 0.1 * guide} if correction == "guide" else {}))
    mine = inputs | {live_rows.SAMPLED_LOGPS: known, live_rows.SAMPLED_ENTROPIES: known * (1 - guide) - 99.0 * guide}
    ratio = guide.any(1).long() * RATIOS.index(correction)
    found = gradient(npo, mine | {GUIDE_MASK: guide, GUIDE_LOGPS: logps, RATIO: ratio})
    assert (found[0] - expected[0]).norm() <= EXACT * expected[0].norm()
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    ((tokens, ratio),) = npo._guide_ratios
    assert tokens == int(guide.sum())
    assert ratio.log_ratio == pytest.approx(0.1, abs=1e-5)


def test_models_that_do_not_allow_it_are_computed_as_ever(trainers, caplog):
    """Sliding windows; one warning, live rows all the same, and TRL's gradient."""
    trl, npo = trainers(lambda: model(use_sliding_window=True, sliding_window=4, max_window_layers=1))
    inputs = batch(MIXED)
    expected, found = gradient(trl, inputs)[0], gradient(npo, inputs | recorded(npo, inputs))[0]
    gradient(npo, inputs)
    assert npo._sharing is False
    assert [record.message.count("not all of its layers are plain attention") for record in caplog.records] == [1]
    assert (found - expected).norm() <= EXACT * expected.norm()


def test_a_model_that_comes_out_otherwise_is_computed_as_ever(trainers, caplog, monkeypatch):
    """What its configuration does not tell: here, attention that is not scaled as it should be."""
    monkeypatch.setattr(shared_prompt, "spread", lambda prompts, group: 2 * SPREAD(prompts, group))
    trl, npo = trainers()
    inputs = batch(MIXED)
    expected, found = gradient(trl, inputs)[0], gradient(npo, inputs | recorded(npo, inputs))[0]
    assert npo._sharing is False and "nats off" in caplog.text
    assert (found - expected).norm() <= EXACT * expected.norm()


SPREAD = shared_prompt.spread


@pytest.mark.parametrize("term", ["beta", "entropy_coef", "top_entropy_quantile"])
def test_terms_that_every_row_counts_in(trainers, term):
    trl, npo = trainers(**{term: 0.1} if term != "beta" else {})
    inputs = batch(MIXED)
    if term == "beta":  # TRL would look for a reference model
        trl.beta = npo.beta = 0.1
        inputs["ref_per_token_logps"] = recorded(npo, inputs)[live_rows.SAMPLED_LOGPS] - 0.2
    wrong = {name: torch.full_like(value, -9.0) for name, value in recorded(npo, inputs).items()}
    expected, found = gradient(trl, inputs)[0], gradient(npo, inputs | wrong)[0]
    assert npo._sharing
    assert (found - expected).norm() <= EXACT * expected.norm()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_gradients_of_any_shape(pair, data):
    groups = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=groups, max_size=groups))
    prompts = data.draw(st.lists(st.integers(1, 9), min_size=groups, max_size=groups))
    completions = [data.draw(st.lists(st.integers(1, 8), min_size=n, max_size=n)) for n in sizes]
    value = st.sampled_from([0.0, 0.0, 1.0, -0.7, 0.25])
    advantages = data.draw(st.lists(value, min_size=sum(sizes), max_size=sum(sizes)))
    seed = data.draw(st.integers(0, 99))
    loss = data.draw(st.sampled_from(LOSSES))
    inputs = batch(Shape(prompts, completions, advantages), seed)
    if data.draw(st.booleans()):
        inputs["old_per_token_logps"] = second_update(pair[1], inputs, seed)
    assert_equal(*set_loss(pair, loss), inputs)
