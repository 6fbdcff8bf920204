"""The local Prefect server: started on a free loopback port, and gone when whoever started it is."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from npo_core.errors import NPOError
from npo_core.process import PARENT, die_with_parent
from npo_core.stages.workspace import home

LOOK, MOST_STARTS = 0.5, 3  # seconds between looks at the server; how often it is started for one run
# What pages may ask; analytics are asked by https.
KEPT = (
    """<meta http-equiv="Content-Security-Policy" content="connect-src 'self' http://127.0.0.1:* ws://127.0.0.1:*">"""
)
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows progress; the server has the log
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
}


class Server:
    """A Prefect API; one that was started here is started again where it ends, and given up where it keeps ending."""

    def __init__(self, url: str, process: subprocess.Popen | None = None):
        self.url, self.process = url, process
        self.starts, self.ended = 1, threading.Event()
        self.thread = threading.Thread(target=self._watch, name="prefect-server", daemon=True)

    @property
    def gone(self) -> bool:
        """Whether nobody answers any more, as far as this process is to see to it."""
        return self.process is not None and self.process.poll() is not None

    def keep_alive(self) -> None:
        """Begin to watch; the same thread starts the next server, which ends with whoever started it."""
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(LOOK):
            if not self.gone:
                continue
            if self.starts == MOST_STARTS:
                tell("The local Prefect server ended again: the run goes on without it, and the UI will not show it.")
                return
            tell("The local Prefect server ended and is started again; stages go on meanwhile.")
            self.process, _ = start_server(int(self.url.rsplit(":", 1)[1].split("/")[0]))
            self.starts += 1

    def end(self) -> None:
        """End the server that was started here, and stop watching it."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)


def tell(sentence: str) -> None:
    """Print a sentence to standard error."""
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def local_server(meanwhile: Callable[[], object] = lambda: None) -> Iterator[Server]:
    """A Prefect API: that of $PREFECT_API_URL, or a server that lives as long as this block.

    `meanwhile` runs while the server starts; the address is set by then, so Prefect may be imported.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if configured := os.environ.get("PREFECT_API_URL"):
        yield Server(configured)
        return
    process, url = start_server()
    server = Server(url, process)
    os.environ["PREFECT_API_URL"] = url
    try:
        meanwhile()
        wait_until_healthy(process, url)
        server.keep_alive()
        yield server
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.end()


def prefect_home() -> Path:
    """Where the local server keeps its database, so that `make serve` shows earlier runs."""
    folder = Path(os.environ.get("PREFECT_HOME") or home() / "prefect").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def start_server(port: int = 0) -> tuple[subprocess.Popen, str]:
    """Start a server on a free loopback port (or the given one) over the local database; it ends with this process."""
    port = port or free_port()
    os.environ |= {
        "PREFECT_HOME": str(prefect_home()),
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",  # what messages link to
        # Pages of other sites in the same browser could start programs here: this server asks for no password.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(prefect_home() / "ui"),
        # On disk, for a slot whose lease a killed server forgot would never be free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return start_process("flows.server", arguments, "server.log"), f"http://127.0.0.1:{port}/api"


def start_process(module: str, arguments: list[str], log_name: str) -> subprocess.Popen:
    """Start a module of this checkout in a session of its own, so that Ctrl-C reaches only who started it."""
    with open(prefect_home() / log_name, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, PARENT: str(os.getpid())},
        )


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(process: subprocess.Popen, url: str, seconds: float = 120.0) -> None:
    """Return once the server answers.

    Raises:
        NPOError: it ended or did not answer in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                keep_to_this_server()
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise NPOError(
        f"The local Prefect server did not start: see {prefect_home() / 'server.log'}, or set PREFECT_API_URL "
        "to a server that runs."
    )


def keep_to_this_server() -> None:
    """Forbid the UI's pages to ask other hosts: the second UI sets its analytics up before it asks whether it may."""
    for page in (prefect_home() / "ui").glob("v*/index.html"):
        if KEPT not in (text := page.read_text()):
            page.write_text(text.replace("<head>", f"<head>{KEPT}", 1))


def write_in_turn() -> None:
    """Have each transaction on SQLite wait for its turn to write when it begins.

    Prefect's WAL and busy timeout do not help a transaction that reads first: when it comes to write and another wrote
    meanwhile, SQLite calls the database locked at once, and a click is refused, or an event lost.
    """
    from contextlib import AbstractAsyncContextManager

    from prefect.server.database.configurations import AioSqliteConfiguration as Configuration

    begin = Configuration.begin_transaction

    def begin_immediate(
        self: Configuration, session: Any, with_for_update: bool = False
    ) -> AbstractAsyncContextManager:
        return begin(self, session, with_for_update=True)

    Configuration.begin_transaction = begin_immediate


def create_scheduled_runs() -> None:
    """Let SQLAlchemy 2.1 insert the runs of a schedule as 2.0 did, without the values that are no columns.

    Prefect 3.8 hands in what its models compute, such as an estimated run time, which 2.1 refuses: its scheduler would
    fail at every look, and no schedule would ever start a run.
    """
    from prefect.server.database.orm_models import FlowRun
    from sqlalchemy import inspect
    from sqlalchemy.ext.hybrid import hybrid_property

    found: list[Any] = [it for it in inspect(FlowRun).all_orm_descriptors if isinstance(it, hybrid_property)]
    for computed in found:
        if getattr(computed, "bulk_dml_setter", computed) is None:  # 2.0 has no such thing
            computed.bulk_dml_setter = leave_out


def leave_out(model: type, row: dict[str, Any], value: object) -> None:
    """Take no column from a computed value."""


if __name__ == "__main__":
    die_with_parent(int(os.environ[PARENT]))
    write_in_turn()
    create_scheduled_runs()
    from prefect.cli import app

    app()
