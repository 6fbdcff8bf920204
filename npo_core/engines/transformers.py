"""The transformers engine: samples and scores in batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from npo_core.engines.base import Generated, parts
from npo_core.engines.rounds import InRounds, Rounds, Told
from npo_core.engines.sampling import Row, Sampling, sample
from npo_core.models.inputs import PromptInputs, beside_ids, read_prompts
from npo_core.models.load import load_model, load_processor, narrow_products, tokenizer_of
from npo_core.problems import Problem

MOST_LOGITS = 2**28  # of one forward pass when scoring: 1 GiB in float32, and as much again for its log-softmax
ONE_AT_A_TIME = Lock()  # models keep state between passes (Qwen3-VL its positions), and memory is planned for one


class TransformersEngine(InRounds):
    """Loads a model folder and samples from it.

    Args:
        folder: Hugging Face layout with tokenizer, or processor.
        device: `cpu` or `cuda`.
        batch: completions generated, or scored, at once. Part of what makes two runs equal bit for bit.
        attention: see `npo_core.models.load.load_model`.
        bf16: compute in bfloat16 where weights are float32, as training does with `training.bf16`; those of linear
            layers are then held in bfloat16.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        device: str = "cpu",
        batch: int = 2048,
        attention: str = "auto",
        bf16: bool = False,
    ):
        self.processor = load_processor(folder)
        self.tokenizer = tokenizer_of(self.processor)
        model = load_model(folder, attention=attention)
        self.model = (narrow_products(model) if bf16 else model).to(device).eval()
        self.device, self.batch, self.bf16 = device, batch, bf16

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    @property
    def eos_ids(self) -> list[int]:
        """Token ids that end a completion: the model's own and the tokenizer's."""
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        return sorted({i for i in [*ids, self.tokenizer.eos_token_id] if i is not None})

    @property
    def never_sampled(self) -> list[int] | None:
        """The placeholder of images, which would have none; training never samples it either."""
        image = getattr(self.model.config, "image_token_id", None)
        return None if image is None else [image]

    def generate(
        self, problems: Sequence[Problem], *, samples: int, max_tokens: int, seed: int
    ) -> list[list[Generated]]:
        """`samples` completions for each problem; see `Engine.generate`."""
        rows = [problem for problem in problems for _ in range(samples)]
        found = [
            completion
            for part in parts(len(rows), self.batch)
            for completion in self.generate_part(rows[part.start : part.stop], part.start, max_tokens, seed)
        ]
        return [found[i : i + samples] for i in range(0, len(found), samples)]

    def generate_part(self, problems: Sequence[Problem], first: int, max_tokens: int, seed: int) -> list[Generated]:
        """A completion for each of these problems, in one sequence; `first`: the number of the first row."""
        rows = [Row(problem.id, first + i) for i, problem in enumerate(problems)]
        with ONE_AT_A_TIME:
            return self._generated(self._sample(problems, rows, max_tokens, seed))

    def generate_rounds(
        self, problems: Sequence[Problem], *, samples: int, most: int, max_tokens: int, seed: int, told: Told
    ) -> None:
        """Rounds in one sequence: those of some problems fill places while others' samples go on; see `GuideEngine`.

        Where a whole round fits at once, a round of all problems at a time: no rows would wait to fill places with.
        """
        if len(problems) * samples <= self.batch:
            how = {"samples": samples, "most": most, "max_tokens": max_tokens, "seed": seed}
            return super().generate_rounds(problems, **how, told=told)
        rounds = Rounds(problems, samples, most, told, wave=self.batch)

        def more(running: int) -> list[Row]:
            return [Row(*row) for row in rounds.more(running)]

        def ended(places: list[int], token_ids: list[list[int]]) -> None:
            rounds.ended(places, self._generated(token_ids))

        first = [Row(*row) for row in rounds.begin(problems)]
        with ONE_AT_A_TIME:
            self._sample(problems, first, max_tokens, seed, ended=ended, more=more)

    @torch.inference_mode()
    def _sample(
        self, problems: Sequence[Problem], rows: Sequence[Row], max_tokens: int, seed: int, **how: Any
    ) -> list[list[int]]:
        by_id = {problem.id: problem for problem in problems}
        sampling = Sampling(seed, max_tokens, self.eos_ids, self.tokenizer.pad_token_id, self.never_sampled or ())

        def read(ids: list[str]) -> list[PromptInputs]:
            return read_prompts(self.processor, [by_id[id_] for id_ in ids])

        with self._precision():
            found = sample(self.model, read, rows, sampling, at_once=self.batch, **how)
        return [row.token_ids for row in found]

    def _generated(self, token_ids: list[list[int]]) -> list[Generated]:
        texts, ends = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True), set(self.eos_ids)
        return [Generated(ids, text, ids[-1] in ends) for ids, text in zip(token_ids, texts, strict=True)]

    @torch.inference_mode()
    def score(
        self, problems: Sequence[Problem], completions: Sequence[Sequence[int]], *, as_sampled: bool = False
    ) -> list[np.ndarray]:
        """`as_sampled`: of what is left once `never_sampled` is ruled out, as `generate` does; else of the model."""
        pairs = list(zip(problems, completions, strict=True))
        with ONE_AT_A_TIME:
            return [logps for part in self._parts(pairs) for logps in self._score(part, as_sampled)]

    def _score(self, pairs: Sequence[tuple[Problem, Sequence[int]]], as_sampled: bool) -> list[np.ndarray]:
        prompts = read_prompts(self.processor, [problem for problem, _ in pairs])
        rows = [torch.tensor([*p.ids, *c]) for p, (_, c) in zip(prompts, pairs, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        shortest_prompt = min(len(p.ids) for p in prompts)
        keep = ids.shape[1] - shortest_prompt + 1
        if len(pairs) > 1 and len(pairs) * keep * self.model.config.get_text_config().vocab_size > MOST_LOGITS:
            half = len(pairs) // 2
            return self._score(pairs[:half], as_sampled) + self._score(pairs[half:], as_sampled)
        beside = beside_ids(prompts, [0] * len(prompts), ids.shape[1])
        inputs = self._on_device({"input_ids": ids, "attention_mask": mask, **beside})
        with self._precision():
            logits = self.model(**inputs, logits_to_keep=keep).logits.float()
        if as_sampled and self.never_sampled:
            logits[:, :, self.never_sampled] = -torch.inf
        logps = torch.log_softmax(logits[:, :-1], dim=-1)
        taken = logps.gather(2, ids[:, shortest_prompt:, None].to(self.device))[:, :, 0].cpu().numpy()
        starts = [len(p.ids) - shortest_prompt for p in prompts]
        return [row[s : s + len(c)].copy() for row, s, (_, c) in zip(taken, starts, pairs, strict=True)]

    def _on_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _parts(self, rows: Sequence) -> Iterator[Sequence]:
        return (rows[i : i + self.batch] for i in range(0, len(rows), self.batch))
