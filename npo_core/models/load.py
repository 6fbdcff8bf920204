"""From a folder in the Hugging Face layout to a model and what makes its inputs; the one place that chooses classes."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


def load_model(folder: Path | str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model of a folder or hub id, on the CPU; `dtype` None keeps the number format that it was saved in."""
    return AutoModelForCausalLM.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype}))


def load_processor(folder: Path | str) -> Any:
    """What turns a prompt into model inputs, padded on the left: the model's tokenizer."""
    return AutoTokenizer.from_pretrained(folder, padding_side="left")
