"""Processes that generate on machines that joined a stage, and how its first process comes to ask them.

Each listens at a port of its machine, for who has a key that is drawn for the stage. Key and address are told through
what all machines see (`nodes.meeting`).
"""

import json
import os
import socket
from typing import TYPE_CHECKING

from npo_core.errors import DeviceError
from npo_core.stages import nodes
from npo_core.stages.specs import Spec
from npo_core.stages.workspace import Workspace

if TYPE_CHECKING:
    from npo_core.engines.dealt import Manager

HOSTS = "npo/hosts"  # by number of a machine: key and addresses of its processes, or why there are none


def generate(spec: Spec) -> int:
    """On a machine that joined: its share of the processes that generate, until the stage is over; the exit code."""
    from npo_core.engines.dealt import start_managers
    from npo_core.stages.engine import of_machine
    from npo_core.stages.execute import prepare_device

    store, number = nodes.meeting(), os.environ["GROUP_RANK"]
    try:
        how, key = of_machine(spec, prepare_device(spec.execution), int(number)), os.urandom(32)
        if not Workspace(spec.workspace).store.is_local:  # it was looked into, and what reads S3 has a thread since
            how["start"] = "spawn"
        if how["start"] == "spawn":  # new interpreters take their time
            nodes.stay_in_touch(spec)
        started = start_managers(**how, address=own_address(), authkey=key)
    except Exception as error:
        store.set(f"{HOSTS}/{number}", json.dumps({"problem": repr(error)}))
        raise
    if how["start"] == "fork":  # no thread before
        nodes.stay_in_touch(spec)
    store.set(f"{HOSTS}/{number}", json.dumps({"key": key.hex(), "addresses": [it.address for it in started]}))
    code = nodes.until_done()
    for manager in started:
        manager.shutdown()
    return code


def own_address() -> str:
    """The address by which this machine reaches the first; multiprocessing takes IPv4 alone."""
    first = socket.getaddrinfo(os.environ[nodes.ADDRESS], int(os.environ[nodes.PORT]), socket.AF_INET)[0][4]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:  # nothing is sent
        route.connect(first)
        return route.getsockname()[0]


def managers(machines: int) -> "list[Manager]":
    """In a stage's first process: the processes of all other machines, by machine.

    Raises:
        DeviceError: one of them could not start its own, or they cannot be reached.
    """
    from npo_core.engines.dealt import Manager

    store, found = nodes.meeting(), []
    for number in range(1, machines):
        told = json.loads(store.get(f"{HOSTS}/{number}"))
        if "problem" in told:
            raise DeviceError(
                f"Machine {number} could not start what generates there ({told['problem']}): see the output of its "
                "`npo join`."
            )
        for address in told["addresses"]:
            found.append(manager := Manager(tuple(address), bytes.fromhex(told["key"])))
            try:
                manager.connect()
            except (EOFError, OSError) as error:
                raise DeviceError(
                    f"Machine {number} generates at {address[0]}:{address[1]}, which cannot be reached ({error!r}): "
                    "let the first machine connect to all ports of the others."
                ) from None
    return found
