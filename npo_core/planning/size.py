"""How large a model is: parameters and the dimensions that memory and time follow from."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from npo_core.config import BuiltInModel, RunConfig

BUILT_IN_VOCABULARY = 16  # ten digits, three operators, `=`, padding and end
COUNTING_S = 120.0  # a hub that does not answer must not hold a run up for longer


@dataclass(frozen=True)
class Tower:
    """A vision tower as Qwen3-VL's: blocks over the patches of an image, some of which are merged into a token."""

    layers: int
    hidden: int
    intermediate: int
    patch: int  # numbers a patch
    merged: int  # patches a token
    outputs: int  # what the language model is given of it: its input, and what is added in deeper layers


@dataclass(frozen=True)
class ModelSize:
    """Counts are of numbers, not bytes; a weight that embedding and head share counts once.

    Example:
        ModelSize(parameters=8190735360, active=8190735360, trainable=8190735360, vision=0, words=1244659712,
                  layers=36, hidden=4096, intermediate=12288, heads=32, key_value_heads=8, head=128,
                  vocabulary=151936, positions=40960, source="its config.json")
    """

    parameters: int
    active: int  # of them, what one token passes: less than all in a mixture of experts
    trainable: int  # all of them, or LoRA's adapters alone
    vision: int  # of them, those of a vision tower
    words: int  # of them, those of embedding and head
    layers: int
    hidden: int
    intermediate: int  # of one token, so of the experts it passes
    heads: int
    key_value_heads: int
    head: int  # numbers a head
    vocabulary: int
    positions: int | None  # longest context
    source: str
    tower: Tower | None = None  # None: there is none, or one built otherwise
    linear: int = 0  # of `parameters`, those of linear layers, which an engine in mixed precision holds in bfloat16

    @property
    def adapters(self) -> bool:
        """Whether only adapters are trained, beside weights that stay."""
        return self.trainable < self.parameters


def model_size(config: RunConfig, environment: dict[str, str] | None = None) -> ModelSize | str:
    """The size of a run's model, or a sentence that says why it is not known.

    Parameters of a pretrained model are counted on the meta device: here, where transformers is imported already, else
    by a process of its own, in `environment`.
    """
    if isinstance(config.model, BuiltInModel):
        return built_in(config.model, BUILT_IN_VOCABULARY)
    lora = config.model.lora
    request = {"path": config.model.path, "lora": None if lora is None else lora.model_dump(mode="json")}
    if "transformers" in sys.modules:
        return counted_here(request)
    return counted(json.dumps(request), frozenset((environment or os.environ).items()))


def counted_here(request: dict[str, Any]) -> ModelSize | str:
    """What `npo_core.models.meta` finds, in this process."""
    from npo_core.models.meta import describe

    try:
        return as_size(describe(**request))
    except Exception as error:  # as of the process: whatever a model's own code raises
        return unknown(request["path"], f"{type(error).__name__}: {error}".splitlines()[-1])


def built_in(model: BuiltInModel, vocabulary: int) -> ModelSize:
    """The built-in Qwen3, whose one shape needs no model to be counted."""
    width = model.width
    block = 4 * width * width + 3 * width * 2 * width + 2 * width + 2 * (width // model.heads)
    parameters = vocabulary * width + model.layers * block + width
    return ModelSize(
        parameters=parameters,
        active=parameters,
        trainable=parameters,
        vision=0,
        words=vocabulary * width,
        layers=model.layers,
        hidden=width,
        intermediate=2 * width,
        heads=model.heads,
        key_value_heads=model.heads,
        head=width // model.heads,
        vocabulary=vocabulary,
        positions=None,
        source="model.layers, width and heads",
        linear=model.layers * 10 * width * width,
    )


@lru_cache(maxsize=8)
def counted(request: str, environment: frozenset[tuple[str, str]]) -> ModelSize | str:
    """What `npo_core.models.meta` finds."""
    command = [sys.executable, "-W", "ignore", "-m", "npo_core.models.meta", request]
    path: Any = json.loads(request)["path"]
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=COUNTING_S)
    except subprocess.TimeoutExpired:
        return f"model.path = {path}: its size was not found within {COUNTING_S:.0f} s."
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return unknown(path, reason)
    return as_size(json.loads(done.stdout.splitlines()[-1]))


def unknown(path: str, reason: str) -> str:
    """A sentence on a model whose size is not known."""
    return f"model.path = {path}: its size is not known ({reason})."


def as_size(found: dict[str, Any]) -> ModelSize:
    """Of what `npo_core.models.meta.describe` found."""
    tower = found.pop("tower")
    return ModelSize(**found, tower=tower and Tower(**tower))
