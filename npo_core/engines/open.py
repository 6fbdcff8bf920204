"""Which engine a stage generates with."""

from pathlib import Path

from npo_core.config import EngineSettings
from npo_core.engines.base import Engine


def open_engine(
    folder: Path | str, settings: EngineSettings, *, device: str, batch: int, attention: str = "auto"
) -> Engine:
    """The engine for a model folder; `batch` completions are generated, or scored, at once."""
    if settings.kind == "vllm":
        from npo_core.engines.vllm import VLLMEngine, worker

        return VLLMEngine(folder, worker(settings, device), device=device, batch=batch, attention=attention)
    from npo_core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, device=device, batch=batch, attention=attention)
