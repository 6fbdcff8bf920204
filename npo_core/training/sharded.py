"""FSDP2: a model split among processes while it is loaded. Its weights are gathered once a rollout, and its checkpoints
are whole, as one process writes them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl import GRPOTrainer

from npo_core.errors import ConfigError

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def prepare(trainer: GRPOTrainer) -> None:
    """Have a trainer's model be saved, and given to vLLM, like one that is not sharded.

    Raises:
        ConfigError: it trains adapters.
    """
    model = trainer.model
    if hasattr(model, "peft_config"):
        raise ConfigError(
            "execution.sharding = fsdp2 splits models that are trained whole, and this one trains adapters: set "
            "execution.sharding to none, each process then holds the frozen weights."
        )
    gather = model.gather_sharded_state_dict_for_save

    def without_tied(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        whole = gather(*args, **kwargs)
        return {name: weight for name, weight in whole.items() if name not in model.all_tied_weights_keys}

    model.gather_sharded_state_dict_for_save = without_tied
    if trainer.use_vllm:  # TRL then gathers one weight after another for it, as where accelerate has split them
        trainer.vllm_generation._dist.fsdp_version = 2
    trainer.args.save_only_model = False  # transformers insists on it, for it would save the optimizer in parts


@contextmanager
def gathered(model: PreTrainedModel) -> Iterator[None]:
    """Inside it each process has all weights, gathered once, in the number format that the model computes in.

    The model is then called without communication, by each process as often as that one needs. No gradients.
    """
    blocks = [block for block in model.modules() if isinstance(block, FSDPModule)]
    model._get_fsdp_state()._lazy_init()  # which a first call would do
    groups = [group for block in blocks for group in block._get_fsdp_state()._fsdp_param_groups]
    after = [group.post_forward_mesh_info for group in groups]  # None: weights stay after a call
    model.set_reshard_after_forward(False)
    try:
        for block in blocks:
            block.unshard()
        yield
    finally:
        for group, info in zip(groups, after, strict=True):
            group.post_forward_mesh_info = info
        for block in blocks:
            block.reshard()


def save_optimizer_and_scheduler(trainer: Trainer, folder: str, save: Callable[[dict, str], None]) -> None:
    """What transformers saves for a model that is not sharded; every process has to call it.

    `save` is given the optimizer's state and its path.
    """
    state = get_optimizer_state_dict(trainer.model, trainer.optimizer.optimizer, options=WHOLE)
    if trainer.args.should_save:
        number = {name: i for i, name in enumerate(names_in_order(state))}
        save(renamed(state, number), os.path.join(folder, OPTIMIZER_NAME))
        torch.save(trainer.lr_scheduler.state_dict(), os.path.join(folder, SCHEDULER_NAME))


def load_optimizer_and_scheduler(trainer: Trainer, folder: str) -> None:
    """Take this process's part of a checkpoint, whatever number of processes wrote it, sharded or not."""
    model, optimizer = trainer.model, trainer.optimizer.optimizer
    name = dict(enumerate(names_in_order(get_optimizer_state_dict(model, optimizer))))
    state = torch.load(os.path.join(folder, OPTIMIZER_NAME), map_location="cpu", mmap=True, weights_only=True)
    set_optimizer_state_dict(model, optimizer, renamed(state, name), options=WHOLE)
    trainer.lr_scheduler.load_state_dict(torch.load(os.path.join(folder, SCHEDULER_NAME), weights_only=True))


def names_in_order(state: dict[str, Any]) -> list[str]:
    """The parameters of a state by name, in the order in which an optimizer numbers them."""
    return [name for group in state["param_groups"] for name in group["params"]]


def renamed(state: dict[str, Any], to: dict[Any, Any]) -> dict[str, Any]:
    """An optimizer's state with other keys for its parameters."""
    return {
        "state": {to[key]: value for key, value in state["state"].items()},
        "param_groups": [group | {"params": [to[key] for key in group["params"]]} for group in state["param_groups"]],
    }
