"""An S3 that fails as a test tells it: a proxy in front of a sound one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from npo_core.errors import WorkspaceBusyError
from npo_core.timeline import Store, workspace_lock

REFUSALS = {
    "slow": (503, [], b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "denied": (403, [], b"<Error><Code>AccessDenied</Code><Message>Access denied.</Message></Error>"),
}
Judge = Callable[["Request"], str]


class Request(BaseHTTPRequestHandler):
    """Does with a request what `judge` says: pass, slow (503), denied, cut, lost (done, not answered), half, hang."""

    protocol_version = "HTTP/1.1"
    server: FaultyS3

    def answer(self) -> None:
        verdict = self.server.take(self)
        if verdict == "hang":
            self.server.back.wait(60)
        if verdict in ("cut", "hang"):
            self.rfile.read(self.size // 2)
            self.close_connection = True
            return
        body = self.rfile.read(self.size)
        status, headers, data = REFUSALS.get(verdict) or self.pass_on(body)
        self.close_connection = verdict in ("lost", "half")
        if verdict == "lost":
            return
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if verdict == "half" else data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    @property
    def size(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream)
        left_out = {"expect", "connection"} | self.server.unknown
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        not_ours = ("connection", "transfer-encoding", "date", "server")
        return answer.status, [pair for pair in answer.getheaders() if pair[0].lower() not in not_ours], data

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class FaultyS3(ThreadingHTTPServer):
    """The proxy; `judge` may be set at any time, and `seen` has method and path of each request with its verdict."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.upstream = urlsplit(endpoint).netloc
        self.judge: Judge = lambda request: "pass"
        self.seen: list[tuple[str, str, str]] = []
        self.back = threading.Event()
        self.unknown: set[str] = set()  # headers that it ignores
        self.url = f"http://127.0.0.1:{self.server_port}"

    @classmethod
    @contextmanager
    def before(cls, endpoint: str) -> Iterator[FaultyS3]:
        """One that serves until the end of the block."""
        server = cls(endpoint)
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield server
        server.back.set()
        server.shutdown()
        server.server_close()

    def take(self, request: Request) -> str:
        verdict = self.judge(request)
        self.seen.append((request.command, request.path, verdict))
        return verdict

    @contextmanager
    def doing(self, judge: Judge) -> Iterator[None]:
        """For a time."""
        before, self.judge = self.judge, judge
        try:
            yield
        finally:
            self.judge = before

    def count(self, verdict: str) -> int:
        return sum(seen[2] == verdict for seen in self.seen)


def first(times: int, verdict: str, where: Callable[[Request], bool] = lambda request: True) -> Judge:
    """The first requests of a kind get a verdict, all others pass."""
    left = iter(range(times))
    return lambda request: verdict if where(request) and next(left, None) is not None else "pass"


def always(verdict: str, where: Callable[[Request], bool] = lambda request: True) -> Judge:
    """All requests of a kind get a verdict."""
    return lambda request: verdict if where(request) else "pass"


def winners(store: Store) -> list[int]:
    """Which of two that start at once hold the workspace; both wait until the other has tried."""
    won: list[int] = []
    start, leave = threading.Barrier(2), threading.Barrier(2)

    def take(number: int) -> None:
        start.wait()
        with ExitStack() as stack:
            with suppress(WorkspaceBusyError):
                stack.enter_context(workspace_lock(store, str(number)))
                won.append(number)
            leave.wait(timeout=60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, range(2)))
    return won
