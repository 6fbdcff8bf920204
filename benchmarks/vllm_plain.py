"""`python vllm_plain.py FOLDER`, by the interpreter that has vLLM: its own plain loop, for benchmarks/guidance.py.

The first line on standard input is the work as JSON: token ids of prompts with a seed each, samples, tokens, end
tokens. Every further line has it done once and is answered by a line `SECONDS TOKENS`.
"""

import json
import os
import sys
import time


def main(folder: str, answers) -> None:
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(folder, dtype="float32", enforce_eager=True, generation_config="vllm", max_model_len=-1)
    work = json.loads(sys.stdin.readline())
    common = {"n": work["samples"], "max_tokens": work["max_tokens"], "stop_token_ids": work["eos_ids"]}
    settings = [SamplingParams(**common, seed=seed, temperature=1.0) for _, seed in work["prompts"]]
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _ in work["prompts"]]
    for _ in sys.stdin:
        started = time.perf_counter()
        results = llm.generate(prompts, settings, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(c.token_ids) for result in results for c in result.outputs)
        print(seconds, tokens, file=answers, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    main(sys.argv[1], answers)
