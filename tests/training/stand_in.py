"""A stand-in for vLLM's engine inside TRL's own `VLLMGeneration`: it samples from weights that TRL loaded into it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from trl.generation import vllm_generation

COMPLETION = 3  # tokens; all prompts are of one length, too


class Engine:
    """What TRL's colocated mode asks of `vllm.LLM`; `stale`: it keeps the weights that it began with."""

    def __init__(self, folder: str, stale: bool, eos_ids: set[int]):
        self.model, self.stale, self.eos_ids = AutoModelForCausalLM.from_pretrained(folder), stale, eos_ids
        self.loaded: list[str] = []  # since the last prefix cache was dropped
        self.syncs: list[list[str]] = []
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))

    def load_weights(self, weights) -> None:
        for name, weight in weights:
            own = self.model.get_parameter(name)
            assert not isinstance(weight, DTensor) and weight.shape == own.shape, name
            self.loaded.append(name)
            if not self.stale:
                own.data.copy_(weight)

    def reset_prefix_cache(self) -> None:
        self.syncs.append(self.loaded)
        self.loaded = []

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm):
        assert (sampling_params.temperature, sampling_params.top_p, sampling_params.top_k) == (1.0, 1.0, 0)
        asked = [prompt["prompt_token_ids"] for prompt in prompts]
        ids = torch.tensor(asked)
        for _ in range(COMPLETION):
            drawn = torch.multinomial(self.model(ids).logits[:, -1].softmax(-1), 1)
            ids = torch.cat([ids, drawn], dim=1)
        logps = self.model(ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[:, -COMPLETION:, 0]
        return [self.answer(*row) for row in zip(asked, ids[:, -COMPLETION:].tolist(), logps.tolist(), strict=True)]

    def answer(self, prompt: list[int], ids: list[int], logps: list[float]) -> SimpleNamespace:
        ends = [place for place, token in enumerate(ids) if token in self.eos_ids]
        ids = ids[: ends[0] + 1] if ends else ids
        found = [{token: SimpleNamespace(rank=1, logprob=p)} for token, p in zip(ids, logps, strict=False)]
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=ids, logprobs=found)])


def install(patch: pytest.MonkeyPatch, *, stale: bool = False) -> None:
    """Let TRL start a stand-in wherever it would start vLLM."""

    def start(generation) -> None:
        generation.llm = Engine(generation.model.name_or_path, stale, {generation.processing_class.eos_token_id})

    patch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    patch.setattr(vllm_generation.VLLMGeneration, "_init_vllm", start)
