"""Configurations and machines that the tests of plans share."""

from collections.abc import Callable
from typing import Any

import torch

from npo_core.config import RunConfig, override, parse_config
from npo_core.planning import Machine, ModelSize
from npo_core.planning.machine import GIB

TINY: dict[str, Any] = {
    "name": "tiny",
    "problems": {"kind": "chain", "train": 96, "held_out": 16, "operands": 3, "difficulties": [1, 2]},
    "training": {"steps": 24, "prompts_per_step": 8, "group_size": 4, "max_completion_tokens": 3, "snapshot_every": 4},
    "bootstrap": {"scout_steps": 12},
    "evaluation": {"every": 12, "samples": 2},
}
LARGE = ModelSize(
    parameters=1_720_574_976,
    active=1_720_574_976,
    trainable=1_720_574_976,
    vision=0,
    words=311_164_928,
    layers=28,
    hidden=2048,
    intermediate=6144,
    heads=16,
    key_value_heads=8,
    head=128,
    vocabulary=151936,
    positions=40960,
    source="a test",
)


def tiny(**changes: object) -> RunConfig:
    """The tiny configuration; dotted fields with `__` for the dot."""
    import copy

    return parse_config(override(copy.deepcopy(TINY), {name.replace("__", "."): v for name, v in changes.items()}))


def pretrained(**changes: object) -> RunConfig:
    """A pretrained model with long completions."""
    fields = {"model__kind": "pretrained", "model__path": "a/model", "model__dtype": "bfloat16"}
    fields |= {"training__max_completion_tokens": 1024}
    return tiny(**{**fields, "training__micro_batch": 32, **changes})


def kept_by(model: torch.nn.Module, mixed: bool, forward: Callable[[], object]) -> int:
    """Bytes that a forward pass leaves for the backward pass, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def gpu(memory: float, disk: float | None = 1e15) -> Machine:
    """A machine with a GPU of so many GiB."""
    return Machine("cuda", 1, "GPU", memory * GIB, None, disk)
