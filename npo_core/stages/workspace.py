"""A run's workspace: the store behind its URI, the timeline in it, a local scratch folder, and its configuration."""

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel

from npo_core.config import RunConfig, parse_config
from npo_core.errors import ConfigError, DataError
from npo_core.guidance.cache import GuidanceCache
from npo_core.names import CONFIG_FILE, RESULT_FILE
from npo_core.timeline import Store, Timeline

NOT_DECISIVE = {
    "execution",
    "name",
    "method",
    "retention",
    "tracking",
}  # fields that may differ between starts of the same run


def home() -> Path:
    """Where base models and scratch of remote workspaces are kept: $NPO_HOME, else ~/.cache/npo."""
    return Path(os.environ.get("NPO_HOME") or Path.home() / ".cache" / "npo")


def absolute(uri: str) -> str:
    """A URI that means the same from any folder; `~` is the home of whoever runs this."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def writable(folder: Path) -> bool:
    """Whether a folder is there, made if need be, and takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


class Workspace:
    """Everything of one run by its URI (a folder or `s3://bucket/prefix`)."""

    def __init__(self, uri: str | Path):
        self.store = Store(uri)
        self.timeline = Timeline(self.store)

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.store.uri

    @property
    def scratch(self) -> Path:
        """A local folder for work in progress; inside the workspace where that is local, so that moves are renames,
        and can be written; a proof also works on one that cannot."""
        inside = self.store.local(".scratch") if self.store.is_local else None
        if inside and writable(inside):
            return inside
        folder = home() / "scratch" / hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def config(self) -> RunConfig:
        """The run's resolved configuration.

        Raises:
            DataError: the URI holds no run.
        """
        values = self.store.read_json(CONFIG_FILE, default=None)
        if values is None:
            raise DataError(
                f"{self.uri} holds no run ({CONFIG_FILE} is not there): give the workspace of a run, or "
                "start one with `npo run`."
            )
        method = values.pop("method", None)  # what it set is in the other fields, as it was when the run began
        config = parse_config(values, f"{self.uri}/{CONFIG_FILE}")
        return config.model_copy(update={"method": method})

    def bind(self, config: RunConfig) -> str | None:
        """Write the resolved configuration; once something was trained, only the same may use the workspace.

        Returns:
            What to tell where another configuration, with which nothing was trained, gave way; else None.

        Raises:
            ConfigError: the workspace belongs to a run with other settings; names the first that differs.
        """
        other = self.require_same(config)
        if other is None and self.store.exists(CONFIG_FILE):
            return None
        if other is not None:
            for name in self.store.list("stages"):
                if not self.store.exists(f"stages/{name}/{RESULT_FILE}"):
                    self.store.remove(f"stages/{name}")  # what failed by the settings before
        self.store.write_json(CONFIG_FILE, config.model_dump(mode="json"))
        if other is None:
            return None
        return f"Nothing was trained in {self.uri} yet: it takes the new configuration, which it held with {other}."

    def require_same(self, config: RunConfig) -> str | None:
        """Look whether the workspace can take a configuration; nothing is written.

        Returns:
            The first difference to the one that would give way; None where none does.

        Raises:
            ConfigError: as `bind` does.
        """
        if not self.store.exists(CONFIG_FILE):
            return None
        mine, given = self.config(), config
        there, config = deciding(mine), deciding(config)
        differ = [
            f for f in RunConfig.model_fields if f not in NOT_DECISIVE and getattr(there, f) != getattr(config, f)
        ]
        if not differ:
            return None
        what = difference(differ[0], getattr(there, differ[0]), getattr(config, differ[0]))
        if self._is_taken(bool({"model", "problems"} & set(differ))):
            raise ConfigError(
                f"The workspace {self.uri} holds a run with {what}: give another workspace, or the configuration it "
                f"was started with{with_its_method(mine.method, given.method)}."
            )
        return what

    def _is_taken(self, another_base: bool) -> bool:
        """Whether anything here depends on the configuration: training began, or the base is that of another model."""
        finished = [n for n in self.store.list("stages") if self.store.exists(f"stages/{n}/{RESULT_FILE}")]
        if another_base and finished:
            return True
        return bool(self.store.list("segments")) or any(not name.startswith("base-") for name in finished)

    def snapshot_folder(self, id_: str, whole: bool = False, weights: bool = True) -> Path:
        """A local folder with a snapshot's files, checked; the base of an adapter lies beside it, checked as well.

        `whole`: to train on it, with the optimizer's state. `weights`: false where tokenizer or pool are enough.

        Raises:
            DamagedError: the snapshot, or its base, is unknown or a file of it differs.
            DataError: what is needed of it was pruned.
        """
        snapshots, scratch = self.timeline.snapshots, self.scratch / "snapshots"
        base = snapshots.get(id_).info.get("base")
        if base and weights:
            snapshots.folder(base, scratch, whole=False)
        return snapshots.folder(id_, scratch, whole=whole, weights=weights)

    def guidance(self, cache: str) -> Store:
        """The folder of a guidance cache."""
        return self.store.child(f"guidance/{cache}")

    def open_cache(self, cache: str, prompt_ids: list[str], expect: dict) -> GuidanceCache:
        """A guidance cache of this run, with the rows of `prompt_ids` loaded and its fingerprints checked."""
        return GuidanceCache.open(self.guidance(cache), prompt_ids, expect=expect)


def deciding(config: RunConfig) -> RunConfig:
    """A configuration without what an engine needs to know of a machine, and without what only keeps a record."""
    training = config.training.model_copy(update={"log_completions": 0})
    return config.model_copy(update={"engine": config.engine.deciding, "training": training})


def with_its_method(mine: str | None, given: str | None) -> str:
    """What to do about another method than the run's; empty where they are the same."""
    if mine == given:
        return ""
    if mine is None:
        return ", which named no method: name none (of auto-npo: --method auto-npo, which adds nothing)"
    return f", whose method is {mine}: name it (--method {mine})"


def difference(field: str, old: object, new: object) -> str:
    """`field = old, not new`, for the first leaf in which two settings differ."""
    if type(old) is type(new) and isinstance(old, BaseModel):
        for name in type(old).model_fields:
            if getattr(old, name) != getattr(new, name):
                return difference(f"{field}.{name}", getattr(old, name), getattr(new, name))
    return f"{field} = {old!r}, not {new!r}"
