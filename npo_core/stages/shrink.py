"""A configuration shrunk: the same classes and the same path through the pipeline in minutes on a CPU.

The model becomes a tiny random one of its architecture. Local rows, the tokenizer of a folder's model for text, and the
verifier stay, and there are fewer rows. For data of a hub there are made-up rows in the declared columns, whose answers
are right where they end by themselves, unless a function of the user's judges them. It shows that everything works
together; its figures mean nothing.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from npo_core.config import AskedProblems, BuiltInModel, ChainProblems, PretrainedModel, RunConfig, parse_config
from npo_core.config.verifier import (
    FunctionVerifier,
    LengthVerifier,
    PartVerifier,
    Verifier,
    WeightedVerifier,
    leaves,
)
from npo_core.errors import ConfigError, NPOError
from npo_core.problems.made_up import fewer_rows, is_local
from npo_core.stages.workspace import home

TOKENS = 48  # of a completion: a random model over some 260 tokens ends one in six by itself
TRAINING = {
    "steps": 8, "prompts_per_step": 4, "group_size": 4, "micro_batch": 4, "max_completion_tokens": TOKENS,
    "snapshot_every": 2, "warmup_steps": 0, "learning_rate": 1e-3,
}  # fmt: skip
ENDS = {"kind": "format", "pattern": "^"}
ENDS_AT = 1 / 12  # how probable the end is for a tiny model with many tokens


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
    if config.guidance.batch is not None:
        fields["guidance"]["batch"] = 8
    fields["evaluation"] = fields.get("evaluation", {}) | {"every": 4, "samples": 2, "batch": 64}
    fields["engine"] = {}  # vLLM's attention knows no heads this small
    fields["name"] = f"{config.name}-shrunk"
    fields["execution"] = fields.get("execution", {}) | {
        "device": "cpu",
        "threads": 1,
        "processes": min(2, config.execution.processes),
        "nodes": 1,
    }
    if isinstance(config.model, PretrainedModel):
        fields["model"] |= {"path": str(tiny_model(config.model.path))}
    else:
        fields["model"] = {"kind": "built-in", "layers": 1, "width": 32, "heads": 2, "steps": 150, "batch": 32}
    if isinstance(config.problems, ChainProblems):
        fields["problems"] = {"kind": "chain", "train": 96, "held_out": 16, "operands": 3, "difficulties": [1, 2]}
    else:
        fields["problems"] = fewer_problems(config.problems)
        same = isinstance(config.model, PretrainedModel) and own_tokenizer(config.model.path)
        if not same or not own_rows(config.problems):
            fields["problems"]["max_prompt_tokens"] = None
    return parse_config(fields, f"{config.name}, shrunk")


def fewer_problems(problems: AskedProblems) -> dict[str, Any]:
    """The fields of the same problems with fewer rows; for those of a hub made-up ones, and verifiers that fit them."""
    key = hashlib.sha256(problems.model_dump_json().encode()).hexdigest()[:16]
    fields = fewer_rows(problems, home() / "shrunk" / key)
    return fields if own_rows(problems) else fields | verifiers(problems)


def replaced(config: RunConfig) -> list[str]:
    """What a trial of the configuration has in place of what, in sentences."""
    said = ["A trial: few steps, small batches, a tiny random model. Its figures mean nothing."]
    if isinstance(config.model, BuiltInModel):
        return said
    tokenizer = "with its tokenizer" if own_tokenizer(config.model.path) else "with a tokenizer of one token a byte"
    said.append(f"In place of model.path = {config.model.path}: a random model of its type, {tokenizer}.")
    if isinstance(config.problems, ChainProblems):
        return said
    hub = [f"problems.{part}" for part, source in config.problems.sources.items() if not is_local(source)]
    if not hub:
        return [*said, "Rows and verifier are yours; of each file the first rows are read."]
    said.append(f"In place of what {', '.join(hub)} name at a hub: made-up rows in the declared columns.")
    return [*said, "An answer to them is right where it ends by itself; only functions of your own judge as they do."]


def own_rows(problems: AskedProblems) -> bool:
    """Whether all rows are on this machine."""
    return all(map(is_local, problems.sources.values()))


def own_tokenizer(path: str) -> bool:
    """Whether the tokenizer of a model stays: of a folder, for text alone; pictures need tokens of their own."""
    from npo_core.models.load import load_config, sees_images

    return Path(path).is_dir() and not sees_images(load_config(path))


def tiny_model(path: str) -> Path:
    """A tiny random model of the type of a folder or hub id, made once."""
    from transformers.utils.logging import disable_progress_bar

    from npo_core.models.load import load_processor
    from npo_core.models.tiny import make_tiny

    disable_progress_bar()
    kind, own = architecture(path), own_tokenizer(path)
    key = "-" + hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:8] if own else ""
    folder = home() / "models" / f"tiny-{kind}{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if own or not folder.exists():  # the user's folder may have changed
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            if own:
                make_tiny(path, unfinished, tokenizer=load_processor(path), ends=ENDS_AT)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                make_tiny(kind, unfinished)
            unfinished.rename(folder)
    return folder


def architecture(path: str) -> str:
    """The model type of a folder or hub id, `qwen3_vl` for example."""
    from npo_core.models.there import check_model

    check_model(path, hub=False)  # before libraries are imported
    from transformers import AutoConfig

    from npo_core.models.known import known_config

    if (known := known_config(path)) is not None:
        return known.model_type
    try:
        check_model(path)
        return AutoConfig.from_pretrained(path).model_type
    except (OSError, ValueError, NPOError) as error:
        raise ConfigError(
            f"model.path = {path} cannot be shrunk, for its architecture is not known here ({error}): name a folder, "
            "or a hub id that this machine reaches."
        ) from None


def verifiers(problems: AskedProblems) -> dict[str, Any]:
    """All verifiers of the problems with another idea of what is right, but for functions."""
    named = {name: shrunk(verifier) for name, verifier in problems.verifiers.items()}
    return {"verifier": shrunk(problems.verifier), "verifiers": named}


def shrunk(verifier: Verifier) -> dict[str, Any]:
    """The same sum with the same other parts; a completion is right that ends by itself. Functions stay."""
    if not isinstance(verifier, WeightedVerifier):
        return verifier.model_dump(mode="json") if has_function(verifier) else ENDS
    parts = verifier.model_dump(mode="json")["parts"]
    for part, fields in zip(verifier.parts, parts, strict=True):
        if part is verifier.accuracy:
            fields["verifier"] = fields["verifier"] if has_function(part.verifier) else ENDS
        elif isinstance(part.verifier, LengthVerifier):
            fields["verifier"] |= {"max_tokens": TOKENS, "buffer": TOKENS // 4}
    return {"kind": "weighted", "parts": parts}


def has_function(verifier: Verifier | PartVerifier) -> bool:
    """Whether a function of the user's verifies."""
    return any(isinstance(leaf, FunctionVerifier) for leaf in leaves(verifier))
