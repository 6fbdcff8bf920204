"""Which engine a stage generates with, and whether a run's settings can have it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npo_core.allowed import require_interpreter
from npo_core.config import EngineSettings
from npo_core.engines.base import Engine
from npo_core.errors import ConfigError

FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def open_engine(
    folder: Path | str | Callable[[], Path],
    settings: EngineSettings,
    *,
    device: str,
    batch: int,
    attention: str = "auto",
    bf16: bool = False,
) -> Engine:
    """The engine for a model folder, or for what a function says is one; see `TransformersEngine` for the words."""
    folder = folder() if callable(folder) else folder
    how: dict[str, Any] = {"device": device, "batch": batch, "attention": attention, "bf16": bf16}
    if settings.kind == "vllm":
        from npo_core.engines.vllm import VLLMEngine, worker

        return VLLMEngine(folder, worker(settings, device), **how)
    from npo_core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, **how)


def require_engine(settings: EngineSettings, *, gpu: bool) -> None:
    """Find out before a run starts what would stop it after its first stages; vLLM itself is not loaded.

    Raises:
        ConfigError: the interpreter is not allowed here, there is no vLLM where the settings say, or training is to
            sample with it and there is no GPU.
    """
    require_interpreter(settings.python)
    if settings.rollouts and not gpu:
        raise ConfigError(
            "engine.rollouts = true needs a GPU, and training runs on the CPU (execution.device): set it to false; "
            "guidance, probes and evaluation can use vLLM on a CPU (engine.kind)."
        )
    if settings.rollouts and not has_vllm(sys.executable):
        raise ConfigError(
            f"engine.rollouts = true, but the environment that trains ({sys.executable}) has no vLLM: install the "
            "extra `vllm` there, or set it to false."
        )
    if settings.kind == "vllm" and not has_vllm(settings.python or sys.executable):
        raise ConfigError(
            f"engine.kind = vllm, but {settings.python or sys.executable} is no interpreter that has vLLM: install it "
            "there, name another in engine.python, or take engine.kind = transformers."
        )


def has_vllm(python: str) -> bool:
    """Whether an interpreter can be started and finds vLLM."""
    try:
        return subprocess.run([python, "-c", FIND], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False
