"""Fingerprints by which a guidance cache knows its model and its tokenizer."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

ARCHITECTURE = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "text_config",
)  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja")
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")  # of models that see


def digest(*parts: bytes) -> str:
    """16 hex digits of a hash over the parts."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def digest_of_files(files: Iterable[Path]) -> str:
    """The `digest` of what is in files, however large: a piece of one is in memory at a time."""
    whole = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            whole.update(hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()[:16]


def describe(folder: Path) -> dict[str, str]:
    """`model` (architecture and vocabulary) and `tokenizer` fingerprints of a Hugging Face model folder."""
    config = json.loads((folder / "config.json").read_text())
    architecture = {name: config.get(name) for name in ARCHITECTURE}
    files: tuple[str, ...] = TOKENIZER_FILES
    if config.get("vision_config"):
        architecture |= {name: shape(config.get(name)) for name in ("text_config", "vision_config")}
        files += PROCESSOR_FILES
    present = [folder / name for name in files if (folder / name).exists()]
    return {
        "model": digest(json.dumps(architecture, sort_keys=True).encode()),
        "tokenizer": digest(*(file.read_bytes() for file in present)),
    }


def shape(part: dict | None) -> dict:
    """A part of a configuration without the number format, which is none of the architecture's."""
    return {name: value for name, value in (part or {}).items() if name not in ("dtype", "torch_dtype")}


def eos_token_ids(folder: Path) -> list[int]:
    """The token ids that end a completion: those of the generation config and the tokenizer's."""
    from transformers import AutoTokenizer, GenerationConfig

    declared = GenerationConfig.from_pretrained(folder).eos_token_id
    ids = {
        *(declared if isinstance(declared, list) else [declared]),
        AutoTokenizer.from_pretrained(folder).eos_token_id,
    }
    return sorted(id_ for id_ in ids if id_ is not None)
