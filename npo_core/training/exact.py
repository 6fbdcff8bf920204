"""What makes a replay the same run: seeds from (run seed, step), data order from (seed, epoch), cursor, digests.

TRL and transformers resume exactly inside one epoch and between generation batches. The rest is here: see
docs/exactness.md for the sources of difference and the command that proves there are none.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.overrides import TorchFunctionMode
from trl.trainer.utils import RepeatSampler

from npo_core.control.controller import CONTROLLER_FILE
from npo_core.errors import ConfigError
from npo_core.mix import MIX_FILE
from npo_core.seeds import derive_seed
from npo_core.timeline import FileEntry
from npo_core.timeline.snapshots import file_entry

CURSOR_FILE = "npo_cursor.json"
BUFFER_FILE = "npo_buffer.pt"
NOT_KEPT = {"training_args.bin", "README.md"}  # local paths, and prose


class SharedNoise(TorchFunctionMode):
    """Inside it, `torch.multinomial` draws one sample a row with the noise that one process would give that row.

    Each process draws the noise of the rows of all and uses that of its own, so which token a row gets does not depend
    on how many processes share the rows. Drawing is torch's own: argmax of probability / exponential noise.
    """

    def __init__(self, seed: int, among: Accelerator):
        super().__init__()
        self.generator = torch.Generator(among.device).manual_seed(seed)
        self.rank, self.processes = among.process_index, among.num_processes

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.multinomial:
            return func(*args, **(kwargs or {}))
        probabilities = args[0]
        rows, tokens = probabilities.shape
        noise = probabilities.new_empty(self.processes * rows, tokens).exponential_(generator=self.generator)
        return (probabilities / noise[self.rank * rows :][:rows]).argmax(-1, keepdim=True)


def seed_step(sampling_seed: int, window: int, position: int, rank: int) -> None:
    """Set every generator for one micro step, so that randomness never depends on history.

    Args:
        window: which generation batch of the run; it is sampled at position 0, whatever the size of micro batches.
        position: which micro step on that batch.
    """
    seed = derive_seed("step", sampling_seed, window, position, rank)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every device's generator too


class EpochSampler(RepeatSampler):
    """TRL's sampler, with a permutation that depends on (seed, epoch) alone.

    `epoch` is asked when iteration starts, so a resumed run need not have walked through earlier epochs.
    """

    def __init__(self, *args, epoch: Callable[[], int], **kwargs):
        super().__init__(*args, **kwargs)
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(derive_seed("order", self.seed, self.epoch()))
        return super().__iter__()


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, types, shapes and bits, whatever file or order they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.dim() else repr(tensor.item()).encode())
    return digest.hexdigest()


def state_digest(state: object) -> str:
    """A hash of nested dicts and lists with tensors at the leaves, such as an optimizer's state."""
    tensors: dict[str, torch.Tensor] = {}

    def plain(node: object, path: str) -> object:
        if isinstance(node, torch.Tensor):
            tensors[path] = node
            return f"tensor {path}"
        if isinstance(node, Mapping):
            return {str(key): plain(value, f"{path}/{key}") for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [plain(value, f"{path}/{i}") for i, value in enumerate(node)]
        return node if isinstance(node, int | float | str | bool | None) else repr(node)

    rest = json.dumps(plain(state, ""), sort_keys=True)
    return hashlib.sha256((rest + tensor_digest(tensors)).encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """The `tensor_digest` of all safetensors files of a model folder; sharding makes no difference."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            tensors.update({name: handle.get_tensor(name) for name in handle.keys()})  # noqa: SIM118
    return tensor_digest(tensors)


class Parts(NamedTuple):
    """Of a checkpoint: the digest of each part of the state, and of files what was hashed on the way to it."""

    content: dict[str, str]
    files: dict[str, FileEntry]


def checkpoint_parts(folder: Path, known: Parts | None = None) -> Parts:
    """Digest of each part of a checkpoint folder, for the id of a snapshot; what is known of it is not read again.

    Returns:
        weights always; optimizer, scheduler, cursor, controller, mix where the folder has them (not at step 0).
    """
    content, files = dict(known.content if known else {}), dict(known.files if known else {})
    if "weights" not in content:
        content["weights"] = weights_digest(folder)
    for part, name in (("optimizer", "optimizer.pt"), ("scheduler", "scheduler.pt"), ("buffer", BUFFER_FILE)):
        if part not in content and (file := folder / name).exists():
            content[part] = state_digest(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    for part, name in (("cursor", CURSOR_FILE), ("controller", CONTROLLER_FILE), ("mix", MIX_FILE)):
        if (file := folder / name).exists():
            files[name] = file_entry(file)
            content[part] = files[name].sha256
    return Parts(content, files)


def strip_checkpoint(folder: Path) -> None:
    """Remove what belongs to one machine or is replaced by derived seeds, and the metrics history."""
    for name in NOT_KEPT:
        (folder / name).unlink(missing_ok=True)
    adapter_file = folder / "adapter_config.json"
    if adapter_file.exists():  # the base is the snapshot beside it, whose folder has its id for a name
        adapter = json.loads(adapter_file.read_text())
        adapter["base_model_name_or_path"] = Path(adapter["base_model_name_or_path"]).name
        adapter["target_modules"] = sorted(adapter["target_modules"])  # a set, whose order differs between processes
        adapter_file.write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n")
    state_file = folder / "trainer_state.json"
    if state_file.exists():
        state = json.loads(state_file.read_text()) | {"log_history": []}
        state_file.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")


def save_cursor(folder: str, cursor: dict, buffer: list | None) -> None:
    """Write where the data and the generation window stand beside a checkpoint."""
    with open(os.path.join(folder, CURSOR_FILE), "w") as file:
        json.dump(cursor, file, sort_keys=True)
    if buffer is not None:
        torch.save(buffer, os.path.join(folder, BUFFER_FILE))


def load_cursor(folder: str) -> tuple[dict, list | None]:
    """Read what `save_cursor` wrote; a folder without it (TRL's own) gives an empty cursor."""
    path, buffer_path = os.path.join(folder, CURSOR_FILE), os.path.join(folder, BUFFER_FILE)
    if not os.path.exists(path):
        return {}, None
    with open(path) as file:
        cursor = json.load(file)
    return cursor, torch.load(buffer_path, weights_only=True) if os.path.exists(buffer_path) else None


SETTINGS = ("initial_lr", "weight_decay", "betas", "eps")  # of an optimizer's group, which its state brings along


def optimizer_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer was made with, by group: loading a state replaces it with what wrote the state."""
    return [{name: group[name] for name in SETTINGS if name in group} for group in optimizer.param_groups]


def set_optimizer_settings(
    optimizer: torch.optim.Optimizer, scheduler: Any, settings: Sequence[Mapping[str, Any]]
) -> None:
    """Put an optimizer back to its own settings, and the learning rate to where its own schedule has it now.

    Where the state was written with the same settings, every bit stays.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's is around another
    if not hasattr(scheduler, "lr_lambdas"):  # not one of transformers' schedules
        return
    scheduler.base_lrs = [own["initial_lr"] for own in settings]
    rates = [
        base * schedule(scheduler.last_epoch)
        for base, schedule in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def own_share(buffer: list, among: Accelerator, step: int) -> list:
    """What this process has of a saved generation batch. Raises ConfigError where other processes shared it."""
    shares = [buffer] if isinstance(buffer[0], dict) else buffer
    if len(shares) != among.num_processes:
        raise ConfigError(
            f"The snapshot after update {step} lies inside a generation batch that {len(shares)} processes share, and "
            f"execution.processes = {among.num_processes}: set it to {len(shares)}, or start from a snapshot after a "
            "multiple of training.updates_per_batch."
        )
    return shares[among.process_index]
