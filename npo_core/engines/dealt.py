"""Generation in several processes: work is dealt out, and what comes back does not tell which process did it.

Each process holds engines on a device of its own. A piece of work is what one process would have computed at once, with
the same random numbers, so the number of processes changes no bit. Whoever deals writes; these only compute.
"""

import errno
import os
import pickle
import socket
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.managers import BaseManager, listener_client  # type: ignore[attr-defined]
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from npo_core.config import EngineSettings
from npo_core.engines.base import Engine, Generated, parts
from npo_core.engines.open import open_engine
from npo_core.errors import DeviceError
from npo_core.problems import Problem

VISIBLE = "CUDA_VISIBLE_DEVICES"
LASTING, SAID_EVERY = "lasting", 60  # name of the connections between machines, and seconds
UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}
Result = TypeVar("Result")

own: dict[int, Any] = {}  # what this process made for whoever deals, by keys


def made(key: int, make: Callable[..., Any], how: dict[str, Any]) -> Any:
    """What this process has under a key; made when it is first asked for."""
    if key not in own:
        own[key] = make(**how)
    return own[key]


class Host:
    """One process: does what it is asked, with engines and judges of its own.

    A thread of its own reads what is asked, and so makes these one after the other: loading changes defaults of the
    whole process, and the kernel ends what an engine starts with the thread that started it.
    """

    def __init__(self) -> None:
        self.reader = ThreadPoolExecutor(1)

    def ask(self, request: bytes) -> Any:
        """What a call gives; `request` are a function and its arguments, pickled."""
        try:
            call, arguments = self.reader.submit(pickle.loads, request).result()
            return call(*arguments)
        except Exception:
            traceback.print_exc()  # into the log; whoever asked gets the error without its place
            raise

    def forget(self, key: int) -> None:
        """Free what was made under a key."""
        own.pop(key, None)


def lasting(address: tuple[str, int] | str, authkey: bytes) -> Connection:
    """A connection to a manager's process; to another machine one that says something while a long part runs.

    What lies between the two may forget a connection on which nothing is said.
    """
    connection = Client(address, authkey=authkey)
    if isinstance(address, tuple):
        with socket.socket(fileno=os.dup(connection.fileno())) as its:
            its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            its.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SAID_EVERY)
            its.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SAID_EVERY)
    return connection


listener_client[LASTING] = (Listener, lasting)


class Manager(BaseManager):
    """Starts a process with a host, and calls it."""

    def __init__(self, address: Any, authkey: bytes | None, **how: Any):
        super().__init__(address, authkey, serializer=LASTING, **how)


Manager.register("Host", Host)


def start_managers(
    devices: Sequence[str | None],
    *,
    start: str,
    begin: Callable[..., object],
    arguments: tuple = (),
    address: str | None = None,
    authkey: bytes | None = None,
) -> list[Manager]:
    """Start a process for each device.

    Args:
        devices: what each may see, as CUDA_VISIBLE_DEVICES has it; None: no accelerator is asked for.
        start: `fork`, from a process without other threads, or `spawn` for a new interpreter.
        begin: called first in each process, with `arguments`.
        address: of this machine, where each listens at a free port for who knows `authkey`; None: for this process.
    """
    there = None if address is None else (address, 0)
    managers = [Manager(there, authkey, ctx=get_context(start)) for _ in devices]
    for manager, device in zip(managers, devices, strict=True):
        with visible(device):
            manager.start(begin, arguments)
    return managers


class Hosts:
    """Processes that generate: those that it starts, with the words of `start_managers`, and those of `add`.

    Args:
        at_once: parts that each does at a time.
    """

    def __init__(self, devices: Sequence[str | None], *, at_once: int = 1, **how: Any):
        self.at_once, self.keys = at_once, count()
        self.hosts: list[Any] = []
        self.places: list[str] = []
        self.managers = start_managers(devices, **how)
        self.add(self.managers)

    def add(self, managers: Sequence[Manager]) -> None:
        """Have more processes take part; only before the first part is dealt."""
        self.hosts += [manager.Host() for manager in managers]  # type: ignore[attr-defined]
        self.places += [f" on {it.address[0]}" if isinstance(it.address, tuple) else "" for it in managers]
        self.threads = ThreadPoolExecutor(len(self) * self.at_once)
        self.free: SimpleQueue[int] = SimpleQueue()
        for number in [*range(len(self))] * self.at_once:
            self.free.put(number)

    def __len__(self) -> int:
        return len(self.hosts)

    def ask(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Have the next host that is free call a function of a module, or a method of an object that can be pickled.

        Raises DeviceError: its process ended; what the function does.
        """
        request = pickle.dumps((call, arguments))
        number = self.free.get()
        try:
            return self.hosts[number].ask(request)
        except (EOFError, OSError) as error:
            if not is_gone(error):
                raise
            raise DeviceError(
                f"Process {number} of the {len(self)} that generate ended{self.places[number]}: a machine short of "
                "memory kills without a word. Starting the stage again goes on from what it committed."
            ) from None
        finally:
            self.free.put(number)

    def all(self, call: Callable[..., list[Result]], parts: Sequence[tuple]) -> list[Result]:
        """What a function gives for all parts, one after the other; as many are at work as there are processes."""
        if len(parts) == 1:
            return self.ask(call, *parts[0])
        done = self.threads.map(lambda part: self.ask(call, *part), parts)
        return [row for part in done for row in part]

    def forget(self, key: int) -> None:
        """Free what was made under a key, in every process."""
        for host in self.hosts:
            with suppress(EOFError, OSError):  # its process is gone, and what it held
                host.forget(key)

    def close(self) -> None:
        """End the processes that it started."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for manager in self.managers:
            manager.shutdown()


def is_gone(error: EOFError | OSError) -> bool:
    """Whether an error says that a process, or its machine, is not there any more."""
    return isinstance(error, (EOFError, ConnectionError, TimeoutError)) or error.errno in UNREACHABLE


@contextmanager
def visible(device: str | None) -> Iterator[None]:
    """Inside it, a process that is started sees this device."""
    before = os.environ.get(VISIBLE)
    if device is not None:
        os.environ[VISIBLE] = device
    try:
        yield
    finally:
        if device is not None:
            os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})


class Own:
    """Stands for what each host makes for itself: sent to one, it is that one's own, made there when it first comes.

    Args:
        make: a function of a module, called with `how`. What it makes is freed with this object.
    """

    def __init__(self, hosts: Hosts, make: Callable[..., Any], **how: Any):
        self.hosts, self.key, self.make, self.how = hosts, next(hosts.keys), make, how
        weakref.finalize(self, hosts.forget, self.key).atexit = False

    def __reduce__(self) -> tuple:
        return made, (self.key, self.make, self.how)


class DealtEngine(Own):
    """An engine of each host, whose work is dealt out among them; `opening` are the words of `open_engine`."""

    def __init__(self, hosts: Hosts, folder: Path | str | Callable[[], Path], settings: EngineSettings, **opening: Any):
        super().__init__(hosts, open_engine, folder=folder, settings=settings, **opening)
        self.batch: int = opening["batch"]
        self.whole = settings.kind == "vllm"  # a request is a prompt with all its samples

    def generate(
        self, problems: Sequence[Problem], *, samples: int, max_tokens: int, seed: int
    ) -> list[list[Generated]]:
        """`samples` completions for each problem; see `Engine.generate`."""
        if self.whole:
            size, how = max(self.batch // samples, 1), {"samples": samples, "max_tokens": max_tokens, "seed": seed}
            pieces = [problems[at : at + size] for at in range(0, len(problems), size)]
            return self.hosts.all(generated, [(self, piece, how) for piece in pieces])
        rows = [problem for problem in problems for _ in range(samples)]
        found = self.hosts.all(
            generated_part,
            [
                (self, rows[part.start : part.stop], part.start, max_tokens, seed)
                for part in parts(len(rows), self.batch)
            ],
        )
        return [found[i : i + samples] for i in range(0, len(found), samples)]

    def score(self, problems: Sequence[Problem], completions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities of completions; see `Engine.score`."""
        size = self.batch
        pieces = [(self, problems[at : at + size], completions[at : at + size]) for at in range(0, len(problems), size)]
        return self.hosts.all(scored, pieces)


def generated(engine: Engine, problems: Sequence[Problem], how: dict[str, int]) -> list[list[Generated]]:
    """What an engine of this process generates."""
    return engine.generate(problems, **how)


def generated_part(engine: Any, *asked: Any) -> list[Generated]:
    """What an engine of this process generates of one part."""
    return engine.generate_part(*asked)


def scored(engine: Engine, problems: Sequence[Problem], completions: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """What an engine of this process scores."""
    return engine.score(problems, completions)
