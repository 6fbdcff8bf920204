"""`python -m npo_core.problems.worker FD PARENT`: a process that verifies one answer after the other and may be killed.

It reads from the connection FD the verifier, then completions, and answers each with a verdict; to a reference it says
what that lacks. It ends when the other end closes, and on Linux by the kernel's hand as soon as PARENT is gone, also
in the middle of an answer.
"""

import resource
import sys
from multiprocessing.connection import Connection

from npo_core.config.verifier import WorkerVerifier
from npo_core.errors import ConfigError
from npo_core.problems.checks import Check, Reads, make_check
from npo_core.problems.functions import OwnFunction, described, is_outage
from npo_core.problems.problem import Completion, Outcome, Problem, Reference
from npo_core.problems.tasks import OfTask
from npo_core.process import die_with_parent, own_stdout

READY, VERDICT, OUTAGE, FAULT, REFUSED = "ready", "verdict", "outage", "fault", "refused"


def main(connection: Connection, parent: int) -> None:
    """Say that it is ready, or why it cannot be, and serve."""
    die_with_parent(parent)
    own_stdout()  # what a user's function prints belongs in the log
    try:
        check = prepared(*connection.recv())
    except ConfigError as error:
        connection.send((REFUSED, str(error)))
        return
    connection.send((READY, check.source if isinstance(check, OwnFunction) else None))
    while True:
        try:
            completion = connection.recv()
        except EOFError:
            return
        connection.send(judged(check, completion))


def prepared(verifier: WorkerVerifier, answer_pattern: str, accuracy: bool, example: Problem | None) -> Check:
    """The check, tried on what the first row looks like. Raises ConfigError."""
    most = int(verifier.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    check = make_check(verifier, answer_pattern, accuracy=accuracy)
    if isinstance(check, OwnFunction) and example is not None:
        check.arguments(Completion(example, "", 0, True))
    if isinstance(check, OfTask) and example is not None:
        check(Completion(example, "", 0, True))  # imports the library, which takes longer than an answer may
    return check


def judged(check: Check, asked: Completion | Reference) -> tuple[str, object]:
    """A message: the verdict, why there is none, or why there never will be; of a reference what it lacks, or None.

    A function's exception is a fault of its own, unless it says that a service or memory is not there.
    """
    try:
        if isinstance(asked, Reference):
            return VERDICT, check.lacking(asked.answer) if isinstance(check, Reads) else None
        verdict = check(asked)
    except ConfigError as error:
        return REFUSED, str(error)
    except TimeoutError as error:
        return OUTAGE, (Outcome.TIMEOUT, str(error))
    except BaseException as error:  # also sys.exit in a user's function
        if isinstance(check, OwnFunction) and isinstance(asked, Completion) and not is_outage(error):
            return FAULT, described(check.path, error, asked)
        return OUTAGE, (Outcome.CRASH, f"{type(error).__name__}: {error}")
    return (OUTAGE, (verdict.outcome, "it said so")) if verdict.outcome.is_outage else (VERDICT, verdict)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
