"""What can go wrong, by kind. Every message is a sentence that names the thing, the value and the remedy."""

from __future__ import annotations


class NPOError(Exception):
    """Base of all errors this project raises on purpose.

    `retryable` says whether starting the same command again, with nothing changed, may succeed;
    `exit_code` is what a process ends with (the numbers follow sysexits.h where it has one).
    """

    retryable: bool = False
    exit_code: int = 70


class ConfigError(NPOError):
    """A setting is missing, unknown or contradicts another."""

    exit_code = 64


class DataError(NPOError):
    """Input does not fit: bad problems, or a cache of another tokenizer or model."""

    exit_code = 65


class DamagedError(NPOError):
    """Something stored is missing, truncated or altered: a snapshot, a cache or a record."""

    exit_code = 66


class StorageError(NPOError):
    """The disk or S3 refused: full, no permission, not reachable."""

    retryable = True
    exit_code = 73


class WorkspaceBusyError(NPOError):
    """Another process works on the workspace, or took it over from this one."""

    exit_code = 75


class ApprovalNeeded(NPOError):
    """An intervention waits for somebody's answer; starting again after it goes on."""

    exit_code = 76


class DivergedError(NPOError):
    """Training produced a loss or gradient that is not finite."""

    exit_code = 67


class OutOfMemoryError(NPOError):
    """The accelerator or the machine has too little memory for the settings."""

    exit_code = 71


class DeviceError(NPOError):
    """The accelerator failed under a stage."""

    retryable = True
    exit_code = 74


class EngineError(NPOError):
    """A generation engine has other log-probabilities than the trainer, as with stale weights, or other prompts."""

    exit_code = 68


class VerifierError(NPOError):
    """Too many answers could not be verified: a worker hangs or crashes, or what it asks is not reachable."""

    retryable = True
    exit_code = 69


class HubError(NPOError):
    """A hub of models and data sets does not answer."""

    retryable = True
    exit_code = 69


class StageError(NPOError):
    """A stage's process ended without a result."""

    exit_code = 70

    def __init__(self, message: str, *, exit_code: int = 70, retryable: bool = False):
        super().__init__(message)
        self.exit_code, self.retryable = exit_code, retryable


def command_code(error: BaseException) -> int:
    """What a command ends with after an error: its own code, 74 where a signal ended a stage, 70 if nobody foresaw it.

    1 and 2 are never among them: they mean that a proof found a difference, and wrong use.
    """
    code = error.exit_code if isinstance(error, NPOError) else NPOError.exit_code
    return code if code > 0 else DeviceError.exit_code
