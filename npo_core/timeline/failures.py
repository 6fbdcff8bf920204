"""What a disk or S3 answers when it refuses, as sentences."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from npo_core.errors import StorageError

_AGAIN = "nothing already written is lost, start the same command again."
_BUSY = {  # codes that a later try may not get, beside those of status 5xx and 429
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "RequestTimeout",
    "IncompleteBody",
}
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}


class GaveUp(OSError):
    """A request to S3 failed for as long as it may be tried, in seconds, and with what it failed last."""

    def __init__(self, last: Exception, tried_s: float) -> None:
        super().__init__(errno.EAGAIN, str(last))
        self.tried_s = tried_s


class Unsure(OSError):
    """The lease on a workspace is ours and about to run out: it could not be renewed for a while."""


@contextmanager
def as_storage_errors(uri: str, rel: str, *, local: bool, size: int | None = None, disk: str = "") -> Iterator[None]:
    """Turns what the file system raises while `rel` below `uri` is read, or written with `size` bytes.

    `disk` names the folder that is written to where that is not `uri`.
    Raises StorageError; FileNotFoundError of an absent file passes through, for the caller knows what it means.
    """
    try:
        yield
    except _kinds(local) as error:
        if isinstance(error, FileNotFoundError) and s3_code(error) != "NoSuchBucket":
            raise
        raise StorageError(_sentence(error, uri, rel, size, disk or uri)) from error


def s3_code(error: BaseException) -> str:
    """The S3 error code behind an exception ('NoSuchBucket', 'PreconditionFailed', ...), '' if there is none."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def passes(error: BaseException) -> bool:
    """Whether what S3 answered, or that it did not, may be over in a moment."""
    from aiohttp import ClientConnectionError, ClientPayloadError
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status == 429 or (status >= 500 and status != 501) or s3_code(error) in _BUSY
    no_answer = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError, TimeoutError, Unsure)
    return isinstance(error, (*no_answer, ClientConnectionError, ClientPayloadError))


def _kinds(local: bool) -> tuple[type[Exception], ...]:
    if local:
        return (OSError,)
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, BotoCoreError, ClientError, HttpError)


def _sentence(error: Exception, uri: str, rel: str, size: int | None, disk: str) -> str:
    number, code = getattr(error, "errno", None), s3_code(error)
    where = f"{uri}/{rel}".rstrip("/")
    if isinstance(error, GaveUp):
        return (
            f"{where} cannot be reached ({error.strerror}; tried for {error.tried_s:.0f} s): check the network, "
            f"AWS_ENDPOINT_URL and how many requests S3 takes; {_AGAIN}"
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        amount = "" if size is None else f" ({size} bytes)"
        return (
            f"The disk behind {disk} is full while writing {rel}{amount}: free space or set another workspace; {_AGAIN}"
        )
    if isinstance(error, PermissionError) or number == errno.EROFS or code in _REFUSED:
        return (
            f"Access to {where} was refused ({_said(error)}): allow this user, or these S3 credentials, to read and "
            f"write there, or set another workspace; {_AGAIN}"
        )
    if code == "NoSuchBucket":
        return f"The bucket of {uri} does not exist: create it or correct the workspace's URI, then start again."
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            f"No S3 credentials were found for {uri} ({_said(error)}): set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; {_AGAIN}"
        )
    if type(error).__module__.startswith(("botocore", "aiohttp")) or isinstance(error, TimeoutError | ConnectionError):
        return f"{where} cannot be reached ({_said(error)}): check the network and AWS_ENDPOINT_URL; {_AGAIN}"
    return f"{where} could not be read or written ({_said(error)}): check the workspace's storage; {_AGAIN}"


def _said(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.rstrip(".") or type(error).__name__
