"""The plain loops that benchmarks/guidance.py holds the stage against: generation alone, by the engine's own call."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, set_seed

from npo_core.engines.transformers import TransformersEngine
from npo_core.engines.vllm import environment, request_seed
from npo_core.problems import Problem

Loop = Callable[[], tuple[float, int]]  # does all the work once; seconds and generated tokens


def transformers_loop(
    folder: Path, problems: Sequence[Problem], *, prompts_a_batch: int, samples: int, max_tokens: int
) -> Loop:
    """`generate` on batches as large as the stage's, every prompt as often as it has samples; ends with the texts."""
    engine = TransformersEngine(folder)
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=max_tokens,
        eos_token_id=engine.eos_ids, pad_token_id=engine.tokenizer.pad_token_id,
    )  # fmt: skip

    @torch.inference_mode()
    def loop() -> tuple[float, int]:
        set_seed(0)
        started, tokens = time.perf_counter(), 0
        for first in range(0, len(problems), prompts_a_batch):
            rows = [p.prompt for p in problems[first : first + prompts_a_batch] for _ in range(samples)]
            inputs = engine.tokenizer(rows, return_tensors="pt", padding=True)
            output = engine.model.generate(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=config
            )[:, inputs.input_ids.shape[1] :]
            engine.tokenizer.batch_decode(output, skip_special_tokens=True)
            ended = torch.isin(output, torch.tensor(engine.eos_ids))
            tokens += int((ended.cumsum(1) - ended.long() == 0).sum())  # up to the first end token, which counts
        return time.perf_counter() - started, tokens

    return loop


def vllm_loop(
    python: str, folder: Path, problems: Sequence[Problem], *, samples: int, max_tokens: int
) -> tuple[Loop, subprocess.Popen]:
    """`LLM.generate` on all prompts at once, with the same sampling and a seed each, in a process of its own."""
    engine = TransformersEngine(folder)
    ids = engine.tokenizer([problem.prompt for problem in problems])["input_ids"]
    prompts = [[tokens, request_seed(0, problem)] for tokens, problem in zip(ids, problems, strict=True)]
    work = {"prompts": prompts, "samples": samples, "max_tokens": max_tokens, "eos_ids": engine.eos_ids}
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name("vllm_plain.py")), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=environment(inherited=False),
    )  # fmt: skip
    process.stdin.write(json.dumps(work) + "\n")

    def loop() -> tuple[float, int]:
        process.stdin.write("\n")
        process.stdin.flush()
        seconds, tokens = process.stdout.readline().split()
        return float(seconds), int(tokens)

    return loop, process
