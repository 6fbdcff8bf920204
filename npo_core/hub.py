"""What is named by a hub id: asked for once, before a library asks for each of its files five times.

Imports no library of the hub, whose settings are read when it is imported.
"""

import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from npo_core.errors import ConfigError, HubError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
PATIENCE = 10.0  # seconds for the one try
ASKED = {"model": ("", "config.json"), "dataset": ("datasets/", "README.md")}  # a file that each kind has
WORDS = {"model": "model", "dataset": "data set"}


def is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: it begins like one, or is no hub id."""
    return name.startswith(("/", ".", "~")) or HUB_ID.fullmatch(name) is None


def require_reachable(kind: str, name: str) -> None:
    """Look once whether what a hub id names can be had; `kind`: model or dataset.

    Where the hub does not answer and files of it were downloaded before, libraries are told to do without a network.

    Raises:
        HubError: the hub does not answer, and nothing was downloaded.
        ConfigError: there is no such thing at the hub, or it is gated, or HF_HUB_OFFLINE forbids to ask.
    """
    there = downloaded(kind, name)
    if offline():
        if not there:
            raise ConfigError(f"{unknown(kind, name)}, and HF_HUB_OFFLINE is set: unset it, or {remedy(kind)}.")
        return
    try:
        ask(kind, name)
    except HubError:
        if not there:
            raise
        go_offline()


def ask(kind: str, name: str) -> None:
    """One request for a file that everything of this kind has."""
    prefix, file = ASKED[kind]
    request = urllib.request.Request(f"{endpoint()}/{prefix}{name}/resolve/main/{file}", method="HEAD")
    if token := read_token():
        request.add_header("authorization", f"Bearer {token}")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:
        refuse(kind, name, error)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise HubError(
            f"{unknown(kind, name)}, and {endpoint()} does not answer ({reason}): start the same command again with a "
            f"network, or {remedy(kind)}."
        ) from None


def refuse(kind: str, name: str, error: urllib.error.HTTPError) -> None:
    """Raises what an answer other than the file means; nothing where the repository is there without that file."""
    code = error.headers.get("X-Error-Code", "")
    if code == "EntryNotFound" and kind == "dataset":
        return
    if code == "GatedRepo" or error.code == 403:
        raise ConfigError(
            f"The {WORDS[kind]} {name} is gated: accept its terms at {endpoint()}/{ASKED[kind][0]}{name}, and set "
            "HF_TOKEN to a token of that account."
        )
    if error.code in (401, 404):
        raise ConfigError(
            f"{unknown(kind, name)}, and none at {endpoint()}: check the name; for a private one set HF_TOKEN."
        )
    raise HubError(
        f"{unknown(kind, name)}, and {endpoint()} refuses ({error}): start the same command again later, or "
        f"{remedy(kind)}."
    )


def unknown(kind: str, name: str) -> str:
    """The sentence about something that was not downloaded."""
    return f"There is no folder {name}, the {WORDS[kind]} of this id was not downloaded to {cache()}"


def remedy(kind: str) -> str:
    """What to do where there is no hub."""
    if kind == "dataset":
        return "load the data set elsewhere, save_to_disk it, and name that folder"
    return "copy the model's files here and name their folder"


def endpoint() -> str:
    """The hub's address, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the environment forbids asking a hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def hub_home() -> Path:
    """The folder of the hub's cache and token."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface").expanduser()


def cache() -> Path:
    """Where files of a hub are kept."""
    return Path(os.environ.get("HF_HUB_CACHE") or hub_home() / "hub").expanduser()


def downloaded(kind: str, name: str) -> bool:
    """Whether anything of it is in the cache, where libraries look by themselves."""
    if kind == "dataset":
        converted = Path(os.environ.get("HF_DATASETS_CACHE") or hub_home() / "datasets")
        if (converted / name.replace("/", "___").lower()).is_dir() or (converted / name.replace("/", "___")).is_dir():
            return True
    return any((cache() / f"{kind}s--{name.replace('/', '--')}" / "snapshots").glob("*/*"))


def read_token() -> str | None:
    """The token of the environment or of its file; None where there is none."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    file = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token")
    return file.read_text().strip() if file.is_file() else None


def go_offline() -> None:
    """Have libraries of this process and its children take what was downloaded, without asking for each file."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for module, name in (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE")):
        if module in sys.modules:
            setattr(sys.modules[module], name, True)
    print(f"{endpoint()} does not answer: what was downloaded from it is used.", file=sys.stderr, flush=True)
