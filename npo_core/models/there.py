"""Whether what `model.path` names can be a model, told from names of files alone, before a library is imported."""

import json
from pathlib import Path

from npo_core.errors import ConfigError
from npo_core.hub import is_path, require_reachable

CONFIGS = ("config.json", "adapter_config.json")
WEIGHTS = ("*.safetensors", "*.bin")


def check_model(path: str, *, hub: bool = True, weights: bool = False, field: str = "model.path") -> None:
    """Look where a model should be.

    Args:
        hub: ask the hub, once, for what is named by a hub id.
        weights: they are needed, and not the model's files of settings and tokenizer alone.
        field: the setting that names it.

    Raises:
        ConfigError: there is no such folder, it holds no model, or one of GGUF; or the hub has none.
        HubError: the hub does not answer.
    """
    folder = Path(path)
    if folder.is_dir():
        check_folder(folder, weights, field)
        if (base := base_name(folder)) is not None and not (folder.parent / base).is_dir():
            check_model(base, hub=hub, weights=weights, field=field)
    elif folder.is_file():
        what = "a GGUF file" if folder.suffix.lower() == ".gguf" else "a file, no folder"
        raise ConfigError(f"{field} = {path} is {what}: {remedy(gguf=folder.suffix.lower() == '.gguf')}")
    elif is_path(path):
        home = f" (~ is not replaced here, write {folder.expanduser()})" if path.startswith("~") else ""
        raise ConfigError(f"{field} = {path}: there is no such folder{home}; {remedy()}")
    elif "gguf" in path.lower():
        raise ConfigError(f"{field} = {path} is a GGUF model by its name: {remedy(gguf=True)}")
    elif hub:
        require_reachable("model", path)


def base_name(folder: Path) -> str | None:
    """What an adapter calls its base model; None where the folder holds a full one."""
    try:
        return json.loads((folder / CONFIGS[1]).read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_folder(folder: Path, weights: bool, field: str) -> None:
    """Raises ConfigError where a folder holds no model."""
    names = {file.name for file in folder.iterdir()}
    gguf = sorted(name for name in names if name.lower().endswith(".gguf"))
    if names.isdisjoint(CONFIGS):
        if gguf:
            raise ConfigError(f"{field} = {folder} holds a GGUF model ({gguf[0]}): {remedy(gguf=True)}")
        raise ConfigError(f"{field} = {folder} holds no {CONFIGS[0]}, so no model: {remedy()}")
    if weights and not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        if gguf:
            raise ConfigError(f"{field} = {folder} has its weights as GGUF alone ({gguf[0]}): {remedy(gguf=True)}")
        raise ConfigError(f"{field} = {folder} holds no weights (*.safetensors): copy them there, all of them.")


def remedy(gguf: bool = False) -> str:
    """What to give instead, as the end of a sentence."""
    if gguf:
        return (
            "weights quantized for llama.cpp cannot be trained; give the folder or hub id of the model that it was "
            "made from, with safetensors and config.json."
        )
    return "give a folder in the Hugging Face layout (config.json, tokenizer, safetensors), or a hub id."
