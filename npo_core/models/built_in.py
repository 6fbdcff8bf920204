"""The base model of the built-in task: a small Qwen3 causal LM trained on imperfect demonstrations."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

from npo_core.config import BuiltInModel, ChainProblems
from npo_core.problems.chain import Demonstrator, make_prompt
from npo_core.problems.tokenizer import make_tokenizer
from npo_core.seeds import library_seed


def train_base(
    model_settings: BuiltInModel, problems: ChainProblems, folder: Path, progress: Callable[[int, int], None]
) -> None:
    """Train from random weights and save model and tokenizer to `folder`. `progress` is told (update, updates)."""
    set_seed(library_seed(model_settings.seed))
    tokenizer = make_tokenizer()
    model = Qwen3ForCausalLM(qwen3_config(model_settings, tokenizer, problems.operands)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=model_settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, model_settings.learning_rate, total_steps=model_settings.steps + 1, pct_start=0.1
    )
    rng = random.Random(f"demonstrations-{model_settings.seed}")
    demonstrator = Demonstrator(model_settings.seed, problems.facts)
    wrong = demonstrator.wrong_values()
    for step in range(1, model_settings.steps + 1):
        prompts = [
            make_prompt(rng, problems.operands, rng.randrange(problems.operands)) for _ in range(model_settings.batch)
        ]
        texts = [prompt + demonstrator.demonstrate(prompt, rng, wrong) for prompt in prompts]
        ids, labels = encode(tokenizer, texts, prompt_length=len(prompts[0]))
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step, model_settings.steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], prompt_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] with the end-of-sequence token, and labels that leave the prompt out."""
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    ids = torch.cat([ids, torch.full((len(ids), 1), tokenizer.eos_token_id)], dim=1)
    labels = ids.clone()
    labels[:, :prompt_length] = -100
    return ids, labels


def qwen3_config(settings: BuiltInModel, tokenizer: PreTrainedTokenizerFast, operands: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=2 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        head_dim=settings.width // settings.heads,
        max_position_embeddings=max(64, 4 * operands),
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
