"""What a model samples from: its own distribution, whatever its `generation_config.json` recommends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # what a generation config says that is no recommendation


@contextmanager
def own_distribution(model: Any) -> Iterator[None]:
    """Inside it, `model.generate` takes no more than special tokens from the model's own generation settings.

    `generate` fills in what its caller leaves open (penalties, filters, beams, lengths) from them: then tokens would be
    drawn from another distribution than the one that their log-probabilities are of. Outside, the settings are as they
    were, so that they are saved with the model.

    Args:
        model: a `PreTrainedModel`, or a `PeftModel` on one.
    """
    parts = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]
    recommended = [(part, part.generation_config) for part in parts if getattr(part, "generation_config", None)]
    for part, settings in recommended:
        part.generation_config = GenerationConfig(**{name: getattr(settings, name) for name in TOKENS})
    try:
        yield
    finally:
        for part, settings in recommended:
            part.generation_config = settings
