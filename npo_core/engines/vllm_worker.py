"""`python vllm_worker.py FD PARENT`: vLLM in an interpreter of its own, started by `npo_core.engines.vllm`.

npo_core need not be installed beside vLLM: two files of it that stand alone are loaded by path. The process takes
requests (number, name, arguments) from the connection FD and answers each with (number, kind, value). What is to be
generated joins what is under way, so that vLLM's batch is full as long as anything is asked. It ends when the other end
closes, and on Linux as soon as PARENT is gone.
"""

import gc
import os
import sys
import traceback
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

DONE, MISSING, MEMORY, FAILED = "done", "missing", "memory", "failed"
OF_MEMORY = ("out of memory", "No available memory", "Free memory on device", "larger than the available KV cache")


@cache
def beside(file: str) -> ModuleType:
    """A module of npo_core by its file in that package's folder."""
    spec = spec_from_file_location(Path(file).stem, Path(__file__).parents[1] / file)
    if spec is None or spec.loader is None:
        raise ImportError(f"There is no module in {file}.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    """Holds one model at a time, and what it was asked to generate and has not answered."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.asked: dict[int, list[str]] = {}  # number of a request -> vLLM's ids of its prompts
        self.ended: dict[str, Any] = {}  # of these, what vLLM has finished

    def load(self, arguments: dict[str, Any]) -> int:
        """Load a model with LLM's arguments in place of the one there is; the tokens that a request may have."""
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        if self.llm is not None:
            self.llm = None
            gc.collect()
            cleanup_dist_env_and_memory()
        self.llm = LLM(**arguments)
        return self.llm.llm_engine.model_config.max_model_len

    def generate(
        self,
        number: int,
        prompts: list[tuple[list[int], list[bytes], int]],
        samples: int,
        max_tokens: int,
        eos_ids: list[int],
        never: list[int],
        logprobs: bool,
    ) -> None:
        """Ask for `samples` completions of each (token ids, images, seed); `step` gives the ids read, and these.

        The ids given have one placeholder for an image. Completions: token ids, without those that are `never` to be
        sampled, and, if asked for, their log-probabilities.
        """
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                n=samples,
                seed=seed,
                max_tokens=max_tokens,
                stop_token_ids=eos_ids,
                logprobs=0 if logprobs else None,  # 0: of the sampled token alone
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                min_p=0.0,
                detokenize=False,
                logit_bias=dict.fromkeys(never, -100.0) or None,  # the lowest there is: e**-100 is never drawn
            )
            for *_, seed in prompts
        ]
        texts = [prompt(ids, images) for ids, images, _ in prompts]
        names = self.llm.enqueue(texts, settings, use_tqdm=False) if prompts else []
        self.asked[number] = [name.partition("-")[0] for name in names]  # vLLM appends random characters

    def step(self) -> list[tuple[int, list[tuple[list[int], list[tuple[list[int], list[float] | None]]]]]]:
        """A token more of all that is under way; the requests that are answered by it."""
        if any(self.asked.values()):
            self.ended |= {o.request_id: o for o in self.llm.llm_engine.step() if o.finished}
        found = []
        for number in [n for n, names in self.asked.items() if all(name in self.ended for name in names)]:
            answers = [self.ended.pop(name) for name in self.asked.pop(number)]
            found.append((number, [(list(a.prompt_token_ids), completions(a)) for a in answers]))
        return found


def prompt(ids: list[int], images: list[bytes]) -> Any:
    """A prompt as vLLM takes it; the model's processor makes of a placeholder as many as its image has tokens."""
    from vllm import TokensPrompt

    if not images:
        return TokensPrompt(prompt_token_ids=ids)
    opened = [beside("problems/picture.py").as_seen(content) for content in images]
    return TokensPrompt(prompt_token_ids=ids, multi_modal_data={"image": opened})


def completions(answer: Any) -> list[tuple[list[int], list[float] | None]]:
    """The token ids of each completion, in the order drawn, with log-probabilities where asked for."""
    return [(list(c.token_ids), of_tokens(c)) for c in sorted(answer.outputs, key=lambda c: c.index)]


def of_tokens(completion: Any) -> list[float] | None:
    """The log-probabilities of a completion's tokens, where they were asked for."""
    if completion.logprobs is None:
        return None
    return [at[token].logprob for at, token in zip(completion.logprobs, completion.token_ids, strict=True)]


def answer(call: Any, *arguments: Any) -> tuple[str, Any]:
    """What a call comes to: its value, or a kind of failure with what the library said."""
    try:
        return DONE, call(*arguments)
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError):
            return MISSING, said
        short = isinstance(error, MemoryError) or any(words in said for words in OF_MEMORY)
        return MEMORY if short else FAILED, said


def main(connection: Connection, parent: int) -> None:
    """Answer requests until the other end closes."""
    beside("process.py").die_with_parent(parent)
    server = Server()
    while True:
        while not server.asked or connection.poll():
            try:
                number, name, *arguments = connection.recv()
            except EOFError:
                return
            if name == "generate":
                kind, value = answer(server.generate, number, *arguments)
            else:
                kind, value = answer(getattr(server, name), *arguments)
            if name != "generate" or kind != DONE:
                connection.send((number, kind, value))
        kind, value = answer(server.step)
        for number, rows in value if kind == DONE else [(number, value) for number in server.asked]:
            connection.send((number, kind, rows))
        if kind != DONE:
            server.asked.clear()


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder != here]  # `vllm` is not the module beside this one
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
