"""A configuration shrunk: the same classes and the same path through the pipeline in minutes on a CPU.

The model becomes a tiny random one of its architecture, data become made-up rows in the declared columns, and an answer
is right where it ends by itself, which a random model manages now and then. It shows that everything works together;
its figures mean nothing.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from npo_core.config import BuiltInModel, DataProblems, RunConfig, parse_config
from npo_core.config.verifier import LengthVerifier, Verifier, WeightedVerifier
from npo_core.errors import ConfigError
from npo_core.problems.made_up import made_up
from npo_core.stages.workspace import home

TOKENS = 48  # of a completion: a random model over some 260 tokens ends one in six by itself
TRAINING = {
    "steps": 8, "prompts_per_step": 4, "group_size": 4, "micro_batch": 4, "max_completion_tokens": TOKENS,
    "snapshot_every": 2, "warmup_steps": 0, "learning_rate": 1e-3,
}  # fmt: skip
ENDS = {"kind": "format", "pattern": "^"}


def shrink(config: RunConfig) -> RunConfig:
    """The configuration shrunk; its model and data are made in a folder of `home()`.

    Raises:
        ConfigError: nothing is known of the model's architecture.
    """
    fields = config.model_dump(mode="json", exclude_unset=True)
    fields["training"] = fields.get("training", {}) | TRAINING
    if config.training.generation_batch is not None:
        fields["training"]["generation_batch"] = 4
    if config.training.updates_per_batch > 1:
        fields["training"]["updates_per_batch"] = 2
    ladder = [2, 4] if config.bootstrap.ladder else []
    fields["bootstrap"] = fields.get("bootstrap", {}) | {"scout_steps": 4, "ladder": ladder}
    fields["guidance"] = fields.get("guidance", {}) | {"chunk_prompts": 8}
    fields["evaluation"] = fields.get("evaluation", {}) | {"every": 4, "samples": 2, "batch": 64}
    fields["engine"] = {}  # vLLM's attention knows no heads this small
    fields["name"] = f"{config.name}-shrunk"
    fields["execution"] = fields.get("execution", {}) | {
        "device": "cpu",
        "threads": 1,
        "processes": min(2, config.execution.processes),
    }
    if isinstance(config.model, BuiltInModel):
        fields["model"] = {"kind": "built-in", "layers": 1, "width": 32, "heads": 2, "steps": 150, "batch": 32}
        fields["problems"] = {"kind": "chain", "train": 96, "held_out": 16, "operands": 3, "difficulties": [1, 2]}
    else:
        kind = architecture(config.model.path)
        fields["model"] |= {"path": str(tiny_model(kind))}
        key = hashlib.sha256(config.problems.model_dump_json().encode()).hexdigest()[:16]
        fields["problems"] = made_up(config.problems, home() / "shrunk" / key) | verifiers(config.problems)
        fields["problems"]["max_prompt_tokens"] = None
    return parse_config(fields, f"{config.name}, shrunk")


def tiny_model(kind: str) -> Path:
    """A tiny random model of a type, made once."""
    from transformers.utils.logging import disable_progress_bar

    from npo_core.models.tiny import make_tiny

    disable_progress_bar()
    folder = home() / "models" / f"tiny-{kind}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make_tiny(kind, unfinished)
            unfinished.rename(folder)
    return folder


def architecture(path: str) -> str:
    """The model type of a folder or hub id, `qwen3_vl` for example."""
    from transformers import AutoConfig

    from npo_core.models.known import known_config

    if (known := known_config(path)) is not None:
        return known.model_type
    try:
        return AutoConfig.from_pretrained(path).model_type
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path = {path} cannot be shrunk, for its architecture is not known here ({error}): name a folder, "
            "or a hub id that this machine reaches."
        ) from None


def verifiers(problems: DataProblems) -> dict[str, Any]:
    """All verifiers of the problems with another idea of what is right."""
    named = {name: shrunk(verifier) for name, verifier in problems.verifiers.items()}
    return {"verifier": shrunk(problems.verifier), "verifiers": named}


def shrunk(verifier: Verifier) -> dict[str, Any]:
    """The same sum with the same other parts; a completion is right that ends by itself."""
    if not isinstance(verifier, WeightedVerifier):
        return ENDS
    parts = verifier.model_dump(mode="json")["parts"]
    for part, fields in zip(verifier.parts, parts, strict=True):
        if part is verifier.accuracy:
            fields["verifier"] = ENDS
        elif isinstance(part.verifier, LengthVerifier):
            fields["verifier"] |= {"max_tokens": TOKENS, "buffer": TOKENS // 4}
    return {"kind": "weighted", "parts": parts}
