"""What others do to a flow run while it works: paused, resumed or ended by them, it ends its stage within seconds.

Prefect tells a process that its run is cancelled, but of a pause only between two tasks. A thread asks for the run's
state instead, and wakes the main thread, which ends the stage: everything up to its newest snapshot is there, and
whoever resumes the run goes on from it.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import Abort, Pause
from prefect.states import Cancelled, State, Suspended

WAITS = "npo.flow-run.waits"
LOOK = 2.0  # seconds between looks at the run's state
R = TypeVar("R")


class Interrupted(BaseException):
    """Somebody changed the state of the flow run; not an error, and not to be caught as one."""


class Watch:
    """Sees when the state of a flow run is no longer the one that this process set."""

    def __init__(self, run: UUID, own: State):
        self.run, self.own = run, own
        self.found: State | None = None
        self.inside, self.over = False, threading.Event()
        look = partial(copy_context().run, self._look)  # Prefect's settings are part of the context
        self.thread = threading.Thread(target=look, name="flow-run-state", daemon=True)

    def _look(self) -> None:
        with get_client(sync_client=True) as client:
            while not self.over.wait(LOOK):
                with suppress(Exception):  # a server that is away is no reason to stop training
                    self.found = self._changed(client)
                if self.found is not None:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                    return

    def _changed(self, client: SyncPrefectClient) -> State | None:
        """The state that somebody else set; a cancellation reaches this process by a signal of its own."""
        state = client.read_flow_run(self.run).state
        if state is None or state.id == self.own.id or state.is_cancelling():
            return None
        if state.is_paused() and not state.state_details.pause_reschedule:
            # Resumed, it would be Running at once, beyond the work pool's limit and without a process.
            waiting = Suspended(pause_expiration_time=state.state_details.pause_timeout, message=state.message)
            return client.set_flow_run_state(self.run, waiting, force=True).state
        return state

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Where the main thread may be interrupted at any moment."""
        try:
            self.inside = True
            self._raise()
            yield
        finally:
            self.inside = False

    def _raise(self, *_: object) -> None:
        if self.inside and self.found is not None:
            self.inside = False
            raise Interrupted(f"The run was set to {self.found.name}; Resume or Retry goes on from its last snapshot.")

    def leave(self) -> None:
        """End this engine's work on the run as Prefect expects it: paused, or not its own any more."""
        if self.found is not None and self.found.is_paused():
            tell_that_it_waits(self.run)
            raise Pause(state=self.found)
        if self.found is not None:
            raise Abort(f"The run is {self.found.name}.")


def tell_that_it_waits(run: UUID) -> None:
    """Say by an event of our own, beside Prefect's, that a run waits without a process and is not dead.

    Either may get lost on a busy server; to the automation for dead machines one of them is enough.
    """
    emit_event(WAITS, resource={"prefect.resource.id": f"prefect.flow-run.{run}"})


watching: Watch | None = None


@contextmanager
def watched() -> Iterator[Watch | None]:
    """Watch the state of the flow run that runs here in the main thread; None elsewhere."""
    global watching
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or threading.current_thread() is not threading.main_thread():
        yield None
        return
    watching = watch = Watch(context.flow_run.id, context.flow_run.state)
    signal.signal(signal.SIGUSR1, watch._raise)
    watch.thread.start()
    try:
        yield watch
    finally:
        watching = None
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the thread may just ask a slow server, and find something yet
        watch.over.set()


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside it, a pause from outside raises Interrupted."""
    if watching is None:
        yield
        return
    with watching.interruptible():
        yield


def pausable(function: Callable[..., R]) -> Callable[..., R | State]:
    """A task that ends as Cancelled, not as a failure, where the run was paused."""

    @wraps(function)
    def task(*args: Any, **kwargs: Any) -> R | State:
        try:
            return function(*args, **kwargs)
        except Interrupted as why:
            return Cancelled(message=str(why))

    return task
