"""Which engine a stage generates with."""

from pathlib import Path

from npo_core.engines.base import Engine


def open_engine(folder: Path | str, *, device: str, batch: int, attention: str = "auto") -> Engine:
    """The engine for a model folder; `batch` completions are generated, or scored, at once."""
    from npo_core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, device=device, batch=batch, attention=attention)
