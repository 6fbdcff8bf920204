"""`python vllm_worker.py FD PARENT`: vLLM in an interpreter of its own, started by `npo_core.engines.vllm`.

npo_core need not be installed beside vLLM: two files of it that stand alone are loaded by path. The process takes
requests (name, arguments) from the connection FD and answers each with (kind, value). It ends when the other end
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
    """Holds one model at a time."""

    def __init__(self) -> None:
        self.llm: Any = None

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
        prompts: list[tuple[list[int], list[bytes], int]],
        samples: int,
        max_tokens: int,
        eos_ids: list[int],
        never: list[int],
        logprobs: bool,
    ) -> list[tuple[list[int], list[tuple[list[int], list[float] | None]]]]:
        """For each (token ids, images, seed) the ids that the model read, and `samples` completions.

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
        answers = self.llm.generate([prompt(ids, images) for ids, images, _ in prompts], settings, use_tqdm=False)
        return [(list(a.prompt_token_ids), completions(a)) for a in answers]


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


def answer(server: Server, name: str, arguments: tuple) -> tuple[str, Any]:
    """What a request comes to: its value, or a kind of failure with what the library said."""
    try:
        return DONE, getattr(server, name)(*arguments)
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
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        connection.send(answer(server, name, tuple(arguments)))


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder != here]  # `vllm` is not the module beside this one
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
