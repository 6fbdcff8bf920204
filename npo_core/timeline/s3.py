"""S3 that may be away for minutes: every request waits for it, and no write leaves without the lease.

botocore and s3fs try again, too, but neither for a given time nor with a word, and botocore draws its waits from the
random numbers of the process, which training seeds. So theirs are off, and one loop here is all.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from npo_core.timeline.failures import GaveUp, passes, s3_code
from npo_core.timeline.guard import Guard, guard_of

PATIENCE_S = 180.0  # a request that fails is tried again for so long
FIRST_S, MOST_S = 0.25, 15.0  # the wait after the first failure, doubled each time, and the most; half of it by chance
QUIET_S, AGAIN_S = 2.0, 30.0  # what passes sooner needs no line in the log; seconds between two lines
BODIES = 5  # how often s3fs reads a small file, or one of unknown length, that breaks off
RANGE = re.compile(r"bytes=\d+-\d+")  # of a part, which s3fs reads into memory and does not read again
ONCE = {"retries": {"mode": "standard", "total_max_attempts": 1}}  # for botocore
GUARDED = {
    "put_object",
    "copy_object",
    "create_multipart_upload",
    "upload_part",
    "upload_part_copy",
    "complete_multipart_upload",
    "delete_object",
    "delete_objects",
}
chance = random.SystemRandom()  # takes nothing from numbers that are seeded, and is another one in each forked process
log = logging.getLogger(__name__)
T = TypeVar("T")


class Tries:
    """The tries of one request: how long to wait before the next, and a line in the log from time to time."""

    def __init__(self, what: str, patience_s: float) -> None:
        self.what, self.patience_s = what, patience_s
        self.began, self.said_s, self.number = time.monotonic(), 0.0, 0

    @property
    def gone_s(self) -> float:
        """Seconds since the first try."""
        return time.monotonic() - self.began

    def wait_s(self, error: Exception) -> float | None:
        """Seconds to wait after a failed try; None: patience is over."""
        gone_s, self.number = self.gone_s, self.number + 1
        if gone_s >= self.patience_s:
            return None
        if gone_s >= (self.said_s + AGAIN_S if self.said_s else QUIET_S):
            self.said_s = gone_s
            left_s = self.patience_s - gone_s
            log.warning(
                "Waiting for S3 to %s: %s. Tried %d times, for %.0f s more.", self.what, error, self.number, left_s
            )
        return min(FIRST_S * 2.0 ** min(self.number - 1, 30), MOST_S) * chance.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """Say that the waiting is over, where it was said that it began."""
        if self.said_s:
            log.warning("S3 answered after %.0f s to %s.", self.gone_s, self.what)


class PatientS3(S3FileSystem):
    """s3fs whose requests are tried again for `patience_s` seconds before they raise GaveUp.

    A write into a workspace whose lease is held here, or by who started this process, looks at the lease before each
    try and while it lasts (`guard`); it raises WorkspaceBusyError where that was lost.
    """

    read_timeout = 60  # seconds without a byte, as botocore has it; s3fs's 15 are short for a server with much to do

    def __init__(self, *args: Any, patience_s: float = PATIENCE_S, **kwargs: Any) -> None:
        config = {**ONCE, **kwargs.pop("config_kwargs", {})}
        super().__init__(*args, config_kwargs=config, **kwargs)
        self.patience_s = patience_s
        self.retries = BODIES if patience_s else 1  # of what s3fs reads in one piece

    async def _call_s3(self, method: str, *given: Any, **named: Any) -> Any:
        tries = Tries(f"{method} s3://{named.get('Bucket', '')}/{named.get('Key', '')}", self.patience_s)
        while True:
            try:
                answer = await self._try(method, *given, **named)
                tries.succeeded()
                return answer
            except Exception as error:
                failed = error
            if not passes(failed):
                raise translate_boto_error(failed)
            if (wait_s := tries.wait_s(failed)) is None:
                raise GaveUp(failed, tries.gone_s) from failed
            await asyncio.sleep(wait_s)

    call_s3 = sync_wrapper(_call_s3)

    async def _try(self, method: str, *given: Any, **named: Any) -> Any:
        await self.set_session()
        bucket = named.get("Bucket", "")
        call = getattr(await self.get_s3(bucket), method)
        arguments = self._get_s3_method_kwargs(call, *given, **named)
        if method == "get_object" and RANGE.fullmatch(arguments.get("Range", "")):
            return await _whole(call(**arguments))
        request = partial(call, **arguments)
        guard = guard_of(bucket, _key(named)) if method in GUARDED else None
        return await (request() if guard is None else self._under(guard, request))

    async def _under(self, guard: Guard, request: Callable[[], Awaitable[Any]]) -> Any:
        """What a request gives, which is broken off should the lease run out while it lasts."""
        look = partial(self._read_now, *self.split_path(guard.prefix)[:2])
        await guard.allow(look)
        task = asyncio.ensure_future(request())
        try:
            while not (await asyncio.wait({task}, timeout=max(0.0, guard.left())))[0]:
                await guard.allow(look)
            return task.result()
        finally:
            task.cancel()

    async def _read_now(self, bucket: str, prefix: str, name: str) -> bytes | None:
        """The content of a file at the first try, None if it is absent."""
        client = await self.get_s3(bucket)
        try:
            answer = await client.get_object(Bucket=bucket, Key=f"{prefix}/{name}".lstrip("/"))
            async with answer["Body"] as body:
                return await body.read()
        except Exception as error:
            if s3_code(error) == "NoSuchKey":
                return None
            raise

    async def _put_file(self, *args: Any, **kwargs: Any) -> None:
        await self._until_complete(super()._put_file, *args, **kwargs)

    async def _pipe_file(self, *args: Any, **kwargs: Any) -> Any:
        return await self._until_complete(super()._pipe_file, *args, **kwargs)

    async def _until_complete(self, upload: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """What an upload gives; once more where its end was not answered, after which S3 knows its parts no more."""
        for number in range(1, self.retries):
            try:
                return await upload(*args, **kwargs)
            except FileNotFoundError as error:
                if s3_code(error) != "NoSuchUpload":
                    raise
            await asyncio.sleep(FIRST_S * number * chance.uniform(0.5, 1.0))
        return await upload(*args, **kwargs)


class Held:
    """A body that was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self) -> bytes:
        """All of it."""
        return self.data

    def close(self) -> None:
        """Nothing is open."""


async def _whole(request: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The answer to a request for a part of a file, with the body in memory: one that breaks off is a failed try."""
    answer = await request
    async with answer["Body"] as body:
        return {**answer, "Body": Held(await body.read())}


def _key(named: dict[str, Any]) -> str:
    """The key that a request writes to, or the first of those that it deletes."""
    objects = named.get("Delete", {}).get("Objects", [])
    return named.get("Key") or (objects[0]["Key"] if objects else "")
