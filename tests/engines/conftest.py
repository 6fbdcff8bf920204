"""Two tiny models of the built-in task, and one process with vLLM that all tests of it share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from npo_core.config import BuiltInModel, ChainProblems, EngineSettings
from npo_core.engines.vllm import VLLMWorker
from npo_core.problems import ProblemSet
from npo_core.problems.load import load_problems

TASK = ChainProblems(train=64, held_out=32, operands=3, difficulties=[0, 1, 2])
# vLLM's attention on a CPU knows heads of 32 and of some larger sizes, not of 24.
MODEL = {"layers": 1, "width": 64, "heads": 2, "steps": 30, "batch": 32, "learning_rate": 1e-2}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders: `a` and `b` differ in their weights, `narrow` has heads that vLLM cannot run on a CPU."""
    from npo_core.models.built_in import train_base

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    made = {"a": MODEL, "b": MODEL | {"seed": 1}, "narrow": MODEL | {"heads": 4, "steps": 1}}
    for name, settings in made.items():
        train_base(BuiltInModel(**settings), TASK, folder / name, lambda done, total: None)
    return {name: folder / name for name in made}


@pytest.fixture(scope="session")
def problems() -> ProblemSet:
    return load_problems(TASK)


@pytest.fixture(scope="session")
def worker(vllm_python: str) -> Iterator[VLLMWorker]:
    process = VLLMWorker(EngineSettings(kind="vllm", python=vllm_python), "cpu")
    yield process
    process.close()
