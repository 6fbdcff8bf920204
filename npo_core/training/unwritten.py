"""The large files of a checkpoint, copied in memory and written later: training goes on after the copy.

An optimizer's state is hashed as it is written. safetensors writes a file by itself, so that one is read once, by
`Snapshots.add`. The digest of a part, which names the snapshot, comes from the copy: no file is read for it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.operations import recursively_apply
from safetensors.torch import save_file
from transformers import modeling_utils

from npo_core.timeline import FileEntry
from npo_core.timeline.failures import as_storage_errors
from npo_core.training import exact


class HashedFile:
    """A new file that is hashed by the bytes as they are written; what `torch.save` writes to."""

    def __init__(self, path: Path) -> None:
        self._file, self._sha256, self._size = path.open("wb"), hashlib.sha256(), 0

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self._size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def entry(self) -> FileEntry:
        """Size and sha256 of what was written so far."""
        return FileEntry(self._size, self._sha256.hexdigest())


class Unwritten:
    """What a checkpoint is still to get: states for `torch.save`, and weights for safetensors, by path.

    Example:
        unwritten = Unwritten()
        with unwritten.taking_weights():
            model.save_pretrained(folder)  # all but the weights
        unwritten.take_state(folder / "optimizer.pt", optimizer.state_dict())
        parts = unwritten.write(folder)  # from any thread; the model may have changed since
    """

    def __init__(self) -> None:
        self._states: dict[Path, Any] = {}
        self._weights: dict[Path, tuple[dict[str, torch.Tensor], dict[str, str] | None]] = {}

    def take_state(self, path: Path | str, state: Any) -> None:
        """Copy a state, nested dicts and lists with tensors, that `write` saves at `path`."""
        self._states[Path(path)] = copied(state)

    @contextmanager
    def taking_weights(self) -> Iterator[None]:
        """Inside it, `save_pretrained` of transformers has its weights copied here instead of written."""
        write = modeling_utils.safe_save_file

        def take(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str] | None = None) -> None:
            self._weights[Path(path)] = (copied(tensors), metadata)

        modeling_utils.safe_save_file = take
        try:
            yield
        finally:
            modeling_utils.safe_save_file = write

    def write(self, folder: Path) -> exact.Parts:
        """Write everything, each copy freed as soon as it is, and say what was learnt of it on the way.

        Raises StorageError where the disk refuses.
        """
        parts = exact.Parts({}, {})
        with as_storage_errors(str(folder), "", local=True):
            while self._states:
                path, state = self._states.popitem()
                parts.content[path.stem] = exact.state_digest(state)
                with HashedFile(path) as file:
                    torch.save(state, file)
                parts.files[path.name] = file.entry
                del state
            if self._weights:
                weights = {name: tensor for tensors, _ in self._weights.values() for name, tensor in tensors.items()}
                parts.content["weights"] = exact.tensor_digest(weights)
                del weights
            while self._weights:
                path, (tensors, metadata) = self._weights.popitem()
                save_file(tensors, path, metadata=metadata)
        return parts


def copied(state: Any) -> Any:
    """Nested dicts and lists with every tensor copied into memory of its own on the CPU."""
    return recursively_apply(lambda tensor: tensor.detach().to("cpu", copy=True), state)
