"""The vLLM engine: a worker process generates, and the trainer's own model scores it and checks its weights."""

import hashlib
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any

import numpy as np

from npo_core.allowed import require_interpreter
from npo_core.config import EngineSettings
from npo_core.engines.base import Generated
from npo_core.engines.check import k3, refuse_stale
from npo_core.engines.rounds import InRounds
from npo_core.engines.transformers import ONE_AT_A_TIME, TransformersEngine
from npo_core.engines.vllm_worker import DONE, MEMORY, MISSING
from npo_core.errors import ConfigError, DataError, DeviceError, EngineError, OutOfMemoryError
from npo_core.models.inputs import PromptInputs, read_prompts
from npo_core.models.load import load_config, merged_folder, sees_images
from npo_core.problems import Problem
from npo_core.problems.images import image_content

WORKER = Path(__file__).with_name("vllm_worker.py")
AT_ONCE = 2  # parts that vLLM generates at once: while one ends, the other fills its batch
CHECKED = 64  # completions of the first batch after a load that are scored by the trainer's model too
# Whoever starts a run may set these otherwise; on a GPU the CPU's are not read.
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
Completion = tuple[list[int], list[float] | None]  # token ids and, if asked for, their log-probabilities
Answer = tuple[list[int], list[Completion]]  # the token ids of the prompt as vLLM read it, and what it sampled


class VLLMWorker:
    """The process with vLLM; it ends with this object, and with this process, however that ends.

    Raises, when asked:
        ConfigError: `engine.python` is not allowed here, is no interpreter, or has no vLLM.
        OutOfMemoryError: the model or its KV cache does not fit.
        DataError: vLLM cannot run the model. DeviceError: the process died.
    """

    def __init__(self, settings: EngineSettings, device: str):
        require_interpreter(settings.python)
        self.settings, self.device = settings, device
        self.python = settings.python or sys.executable
        self.loaded: str | None = None
        self.longest = 0  # tokens of a prompt and its completion
        self.connection, theirs = Pipe()
        try:
            self.process = start(self.python, theirs.fileno(), inherited=not settings.python)
        finally:
            theirs.close()
        self.waiting: dict[int, Future[tuple[str, Any]]] = {}  # by number of a request
        self.numbers, self.sending, self.loading = count(), Lock(), Lock()
        Thread(target=listen, args=(self.connection, self.waiting, self.sending), daemon=True).start()
        self.close = weakref.finalize(self, end, self.process, self.connection)

    def load(self, folder: str, dtype: str) -> bool:
        """Have the weights of a folder or hub id, of a model or an adapter, loaded; whether they were loaded now."""
        if folder == self.loaded:
            return False
        self.loaded = None
        with TemporaryDirectory(prefix="npo-merged-") as target:  # for an adapter; gone once it is loaded
            self.longest = self._load(str(merged_folder(folder, Path(target))), dtype)
        self.loaded = folder
        return True

    def _load(self, model: str, dtype: str) -> int:
        arguments = {
            "model": model,
            "dtype": dtype,  # left to itself, vLLM halves float32
            "max_model_len": self.settings.max_model_len or -1,
            "tensor_parallel_size": self.settings.tensor_parallel,
            "generation_config": "vllm",  # what a model recommends for sampling would change the log-probabilities
            "logprobs_mode": "processed_logprobs",
        }
        if sees_images(load_config(model)):
            arguments["limit_mm_per_prompt"] = {"video": 0}  # else vLLM keeps memory for what is never asked
        else:
            arguments["skip_tokenizer_init"] = True  # where there are images, the processor needs it
        if self.device == "cpu":
            # Compiling takes longer than it saves; a seeded request that is prefilled in two steps fails (vLLM 0.32).
            arguments |= {"enforce_eager": True, "enable_chunked_prefill": False}
        else:
            arguments["gpu_memory_utilization"] = self.settings.memory
        return self.ask(f"load {model}", "load", arguments)

    def generate(
        self,
        prompts: Sequence[tuple[list[int], list[bytes], int]],
        *,
        samples: int,
        max_tokens: int,
        eos_ids: list[int],
        never: Sequence[int] = (),
        logprobs: bool,
    ) -> list[Answer]:
        """Of each (token ids, images, seed) the token ids that vLLM read, and `samples` completions.

        A prompt has one placeholder for each of its images, which are the bytes of files; what vLLM read has one for
        every token of an image. Tokens in `never` are not sampled.
        """
        return self.ask(
            f"generate with {self.loaded}",
            "generate",
            list(prompts),
            samples,
            max_tokens,
            eos_ids,
            list(never),
            logprobs,
        )

    def refuse_longer(self, longest: int) -> None:
        """Stop where vLLM has no room for a prompt and its completion of `longest` tokens. Raises ConfigError."""
        if longest > self.longest:
            raise ConfigError(
                f"The longest prompt and its completion take {longest} tokens, and vLLM has room for {self.longest}: "
                "raise engine.max_model_len or engine.memory, or lower training.max_completion_tokens or "
                "problems.max_prompt_tokens."
            )

    def ask(self, what: str, *request: Any) -> Any:
        """One request's answer; several threads may wait for one each.

        Raises DeviceError where the process ended, and what its kind of failure means.
        """
        try:
            answer: Future[tuple[str, Any]] = Future()
            with self.sending:
                number = next(self.numbers)
                self.waiting[number] = answer
                self.connection.send((number, *request))
            kind, value = answer.result()
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            raise DeviceError(
                f"The process of vLLM ended (exit code {self.process.returncode}) when it should {what}; a machine "
                "short of memory kills without a word. The log has what vLLM said."
            ) from None
        if kind == DONE:
            return value
        if kind == MISSING:
            raise ConfigError(
                f"engine.kind = vllm, but {self.python} has no vLLM that works ({value}): install it there, set "
                "engine.python to an interpreter that has it, or take engine.kind = transformers."
            )
        if kind == MEMORY:
            raise OutOfMemoryError(
                f"vLLM has too little memory to {what} ({value}): lower engine.max_model_len, raise engine.memory (now "
                f"{self.settings.memory:g}), or split the model by engine.tensor_parallel."
            )
        raise DataError(f"vLLM cannot {what} ({value}): see the log, or take engine.kind = transformers.")


def listen(connection: Any, waiting: dict[int, Future], sending: Lock) -> None:
    """Give each answer to who waits for it, until the process ends; then whoever waits is told of that."""
    with suppress(EOFError, OSError):
        while True:
            number, *answer = connection.recv()
            waiting.pop(number).set_result(tuple(answer))
    with sending:
        while waiting:
            waiting.popitem()[1].set_exception(EOFError())


def start(python: str, connection: int, inherited: bool) -> subprocess.Popen:
    """The worker's process with the descriptor of its connection; `inherited`: it imports what this process may."""
    try:
        return subprocess.Popen(
            [python, str(WORKER), str(connection), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what vLLM prints belongs in the log
            pass_fds=[connection],
            env=environment(inherited),
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(
            f"engine.python = {python} cannot be started ({error.strerror}): name the interpreter of an environment "
            "that has vLLM."
        ) from None


def environment(inherited: bool) -> dict[str, str]:
    """The environment of the worker's process; without PYTHONPATH unless it is `inherited`."""
    own = {k: v for k, v in os.environ.items() if inherited or k != "PYTHONPATH"}
    return ENVIRONMENT | own | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # one process, which ends with this one


def end(process: subprocess.Popen, connection: Any) -> None:
    """Kill the worker with whatever it started, and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    connection.close()


@cache
def worker(settings: EngineSettings, device: str) -> VLLMWorker:
    """The worker of this process: one, whatever number of models it loads in turn."""
    return VLLMWorker(settings, device)


def request_seed(seed: int, problem: Problem) -> int:
    """The seed of a problem's samples, whatever else is in its batch."""
    return int.from_bytes(hashlib.sha256(f"{seed} {problem.id}".encode()).digest()[:6])


def refuse_other_prompts(problems: Sequence[Problem], read: Sequence[PromptInputs], answers: Sequence[Answer]) -> None:
    """Stop where vLLM read other token ids than the trainer does. Raises EngineError."""
    for problem, own, (ids, _) in zip(problems, read, answers, strict=True):
        if ids != own.ids:
            raise EngineError(
                f"vLLM read the prompt {problem.id} as {len(ids)} tokens, the trainer as {len(own.ids)}, and they are "
                "not the same: the processor in engine.python makes another prompt of its images. Install the "
                "trainer's version of transformers there, or take engine.kind = transformers."
            )


class VLLMEngine(InRounds):
    """Samples in the worker; scores with the trainer's own model, loaded here.

    Args:
        folder: Hugging Face layout with tokenizer.
        worker: see `worker`; it loads this folder when it is first asked for completions.
        device: `cpu` or `cuda`. batch, attention: of the model that scores; see `TransformersEngine`.
        bf16: compute in bfloat16, as training does with `training.bf16`; vLLM then holds its weights in it.

    Raises, when asked to generate:
        EngineError: the first completions after a load are not those of these weights, or vLLM's own processor made
            another prompt of an image. DataError: an image is gone. What `VLLMWorker` raises.
    """

    def __init__(
        self,
        folder: Path | str,
        worker: VLLMWorker,
        *,
        device: str = "cpu",
        batch: int = 2048,
        attention: str = "auto",
        bf16: bool = False,
    ):
        self.folder, self.worker, self.device = str(folder), worker, device
        self.own = TransformersEngine(folder, device=device, batch=batch, attention=attention, bf16=bf16)
        self.dtype = "bfloat16" if bf16 else str(self.own.model.dtype).removeprefix("torch.")

    def generate(
        self, problems: Sequence[Problem], *, samples: int, max_tokens: int, seed: int
    ) -> list[list[Generated]]:
        """`samples` completions for each problem; see `Engine.generate`.

        Parts of `batch` completions, two at a time: vLLM fills its batch from both, and the images of no more are held.
        """
        size, how = max(self.own.batch // samples, 1), {"samples": samples, "max_tokens": max_tokens, "seed": seed}
        parts = [problems[at : at + size] for at in range(0, len(problems), size)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [row for part in pool.map(lambda part: self._part(part, **how), parts) for row in part]

    def _part(self, problems: Sequence[Problem], **how: int) -> list[list[Generated]]:
        with self.worker.loading:  # the first completions after a load are checked before there are others
            if self.worker.load(self.folder, self.dtype):
                return self._generate(problems, loaded=True, **how)
        return self._generate(problems, loaded=False, **how)

    def _generate(
        self, problems: Sequence[Problem], *, samples: int, max_tokens: int, seed: int, loaded: bool
    ) -> list[list[Generated]]:
        with ONE_AT_A_TIME:  # a tokenizer serves one thread
            read, requests = read_prompts(self.own.processor, problems), self._requests(problems, seed)
        self.worker.refuse_longer(max(len(prompt.ids) for prompt in read) + max_tokens)
        eos_ids = self.own.eos_ids
        answers = self.worker.generate(
            requests,
            samples=samples,
            max_tokens=max_tokens,
            eos_ids=eos_ids,
            never=self.own.never_sampled or (),
            logprobs=loaded,
        )
        refuse_other_prompts(problems, read, answers)
        drawn = [completions for _, completions in answers]
        if loaded:
            self._check(problems, drawn)
        flat = [ids for completions in drawn for ids, _ in completions]
        texts = iter(self.own.tokenizer.batch_decode(flat, skip_special_tokens=True))
        return [[Generated(ids, next(texts), ids[-1] in eos_ids) for ids, _ in given] for given in drawn]

    def _requests(self, problems: Sequence[Problem], seed: int) -> list[tuple[list[int], list[bytes], int]]:
        prompts = self.own.tokenizer([problem.prompt for problem in problems])["input_ids"]
        images = [[image_content(image) for image in problem.images] for problem in problems]
        return list(zip(prompts, images, [request_seed(seed, problem) for problem in problems], strict=True))

    def score(self, problems: Sequence[Problem], completions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities of completions by the trainer's own model, nats; see `Engine.score`."""
        return self.own.score(problems, completions)

    def _check(self, problems: Sequence[Problem], drawn: list[list[Completion]]) -> None:
        rows = [(problem, *c) for problem, given in zip(problems, drawn, strict=True) for c in given][:CHECKED]
        own = self.own.score([problem for problem, _, _ in rows], [ids for _, ids, _ in rows], as_sampled=True)
        kl = k3(np.concatenate(own) - np.concatenate([logps for _, _, logps in rows]))
        self.worker.loaded = None  # if it is refused, whoever asks again has it loaded, and checked, again
        refuse_stale(kl, self.worker.settings.max_kl, f"the model {self.folder}")
        self.worker.loaded = self.folder
