"""A process of its own that follows a workspace and tells trackers, for as long as a run goes on.

It has one request on its standard input and, at the end, how the run ended; it answers each with one line. Libraries of
trackers print, start threads and change signal handlers as they like: here that is nobody's matter.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from npo_core.config import RunConfig
from npo_core.errors import ConfigError, StorageError
from npo_core.names import LOG_FILE
from npo_core.process import PARENT, die_with_parent, own_stdout
from npo_core.reporting.compare import flatten
from npo_core.stages.workspace import Workspace, home
from npo_core.tracking.check import require_trackers
from npo_core.tracking.story import Event
from npo_core.tracking.sync import Teller, described
from npo_core.tracking.tracker import About

NEAR, FAR = 2.0, 15.0  # seconds between two looks at a workspace on a disk, and in S3
START = 120.0  # seconds that a run waits for trackers to connect
END, STOP = 60.0, 10.0  # and to take what is left, when it is finished, and when it has to make room
LINKS = "tracking"  # folder in the workspace


def folder_of(workspace: Workspace, config: RunConfig) -> Path:
    """Where trackers write on this machine."""
    if config.tracking.folder:
        return Path(config.tracking.folder).absolute()
    inside = workspace.store.is_local
    return workspace.store.local(LINKS) if inside else home() / LINKS / workspace.uri.replace("://", "/")


@contextmanager
def followed(config: RunConfig, workspace: Workspace, about: Mapping[str, Any]) -> Iterator[None]:
    """Inside it, trackers are told what is committed in the workspace; where none is configured, nothing happens.

    Args:
        about: what the trackers show of the run besides its settings: recipe, flow run.

    Raises:
        ConfigError: a library is missing, or a tracker refuses at the start. What goes wrong later is a warning.
    """
    if not config.tracking.to:
        yield
        return
    require_trackers(config.tracking)
    follower = Follower(config, workspace, about)
    try:
        yield
    except BaseException as error:
        follower.end({"failed": True, "why": str(error) or type(error).__name__})
        raise
    follower.end({"failed": False, "why": ""})


class Follower:
    """The process, from the side of the run."""

    def __init__(self, config: RunConfig, workspace: Workspace, about: Mapping[str, Any]):
        folder = folder_of(workspace, config)
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / LOG_FILE
        asked, self.input = os.pipe()
        self.output, answered = os.pipe()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "npo_core.tracking"],
                stdin=asked,
                stdout=answered,
                stderr=log,
                env=environment(config, folder),
                start_new_session=True,  # Ctrl-C is the run's matter, which says how it ended
            )
        os.close(asked)
        os.close(answered)
        settings = flatten(config.model_dump(mode="json")) | {"workspace": workspace.uri, **about}
        request = {"workspace": workspace.uri, "folder": str(folder), "name": config.name, "config": settings}
        self._send(request | {"to": config.tracking.to, "project": config.tracking.project})
        answer = self._answer(START)
        if answer is None or "error" in answer:
            self._kill()
            why = answer["error"] if answer else f"no answer within {START:.0f} seconds"
            raise ConfigError(
                f"tracking.to = {', '.join(config.tracking.to)}: a tracker refuses ({why}; log: {self.log}): mend "
                "that, or take it out."
            )

    def end(self, how: dict[str, Any]) -> None:
        """Let it tell what is left, and how the run ended; a warning where that was not possible."""
        self._send(how)
        answer = self._answer(STOP if how["failed"] else END)
        if answer is None or "error" in answer:
            why = answer["error"] if answer else "it did not answer"
            print(f"Trackers were not told everything ({why}); the next start goes on.", file=sys.stderr, flush=True)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self._kill()

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            os.write(self.input, json.dumps(message).encode() + b"\n")

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None where none came in time."""
        deadline, found = time.monotonic() + seconds, b""
        while not found.endswith(b"\n"):
            ready, _, _ = select.select([self.output], [], [], max(deadline - time.monotonic(), 0))
            piece = os.read(self.output, 65536) if ready else b""
            if not piece:
                return None
            found += piece
        return json.loads(found)

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self.input, self.output):
            with suppress(OSError):
                os.close(descriptor)


def environment(config: RunConfig, folder: Path) -> dict[str, str]:
    """That of the process: as here, and Trackio in the folder where one was asked for."""
    own = {"TRACKIO_DIR": str(folder / "trackio")} if config.tracking.folder else {}
    return {**os.environ, **own, PARENT: str(os.getpid())}


def main() -> None:
    """The process: connect, answer, follow until the run has ended, answer."""
    answers = own_stdout()
    die_with_parent(int(os.environ.get(PARENT, os.getppid())))
    request = json.loads(sys.stdin.buffer.readline())
    workspace = Workspace(request["workspace"])
    about = About(
        id="",
        name=request["name"],
        project=request["project"],
        group=request["name"],
        folder=Path(request["folder"]),
        config=request["config"],
    )
    troubles: list[str] = []
    try:
        teller = Teller(workspace, tuple(request["to"]), about, troubles.append)
    except Exception as error:
        print(described(error), file=sys.stderr, flush=True)
        answer(answers, {"error": described(error)})
        sys.exit(1)
    answer(answers, {})
    how = follow(teller, NEAR if workspace.store.is_local else FAR, troubles)
    last = Event("stopped", 0, "stopped", "the run stopped", how["why"], "error") if how["failed"] else None
    done = attempt(teller, last or Event("finished", 0, "finished", "the run finished"), troubles)
    teller.close(how["failed"])
    answer(answers, {} if done else {"error": troubles[-1]})


def follow(teller: Teller, seconds: float, troubles: list[str]) -> dict[str, Any]:
    """Look again and again until a line says how the run ended."""
    while not select.select([sys.stdin], [], [], seconds)[0]:
        attempt(teller, None, troubles)
    line = sys.stdin.buffer.readline()
    return json.loads(line) if line else {"failed": True, "why": "the process of the run ended"}


def attempt(teller: Teller, last: Event | None, troubles: list[str]) -> bool:
    """Tell what is new; whether that was possible. What was in the way is in the log."""
    known = len(troubles)
    try:
        done = teller.sync(last)
    except StorageError as error:
        troubles.append(str(error))
        done = False
    for trouble in troubles[known:]:
        print(trouble, file=sys.stderr, flush=True)
    return done


def answer(descriptor: int, message: dict[str, Any]) -> None:
    """One line to the run; nobody may be there any more."""
    with suppress(OSError):
        os.write(descriptor, json.dumps(message).encode() + b"\n")
