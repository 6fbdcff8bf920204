"""A verifier of the user's own, by import path."""

import ast
import asyncio
import hashlib
import importlib
import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from pathlib import Path
from typing import Any, TypedDict
from urllib.error import URLError

from npo_core.allowed import require_module
from npo_core.errors import ConfigError
from npo_core.problems.problem import Completion, Outcome, Verdict, found, graded
from npo_core.problems.values import visible

GIVEN = ("prompt", "completion", "answer")
SHOWN, FRAMES = 300, 8  # characters of a value, and frames, in a message
VARIABLE = inspect.Parameter.VAR_KEYWORD


class FunctionSource(TypedDict):
    """Where a function is defined, and a digest of all its module says but for comments."""

    file: str
    digest: str


@dataclass(frozen=True)
class OwnFunction:
    """Calls a function with what it takes of prompt, completion, answer and the other columns of the row."""

    path: str
    function: Callable[..., Any]
    takes: frozenset[str] | None  # names of its parameters; None: it takes whatever there is
    accuracy: bool

    @classmethod
    def load(cls, path: str, *, accuracy: bool) -> "OwnFunction":
        """Import it and look at its signature.

        Raises:
            ConfigError: its module is not allowed here, and is not imported then; or it is not there, is no function,
                or does not take prompt, completion and answer by name.
        """
        module, _, name = path.partition(":")
        require_module(module, path)
        try:
            function: Any = reduce(getattr, name.split("."), importlib.import_module(module))
        except Exception as error:
            raise ConfigError(
                f"The verifier's function {path} cannot be imported ({type(error).__name__}: {error}): write "
                "package.module:name, with the package installed or on PYTHONPATH."
            ) from error
        require_module(getattr(function, "__module__", None) or "", path)  # `mine:os.system` is not mine's
        return cls(path, function, parameters(path, function), accuracy)

    @property
    def source(self) -> FunctionSource | None:
        """The source of its module; None where it has none, as what is compiled."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.function)) or ""
            tree = ast.parse(Path(file).read_bytes())
        except (OSError, TypeError, ValueError, SyntaxError):
            return None
        return FunctionSource(file=file, digest=hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16])

    def arguments(self, completion: Completion) -> dict[str, object]:
        """What it is called with. Raises ConfigError where a parameter without a default gets nothing."""
        problem = completion.problem
        there = {**problem.row, **dict(zip(GIVEN, (problem.prompt, completion.text, problem.answer), strict=True))}
        values = {name: value for name, value in there.items() if self.takes is None or name in self.takes}
        try:
            inspect.signature(self.function).bind(**values)
        except TypeError as error:
            raise ConfigError(
                f"The verifier's function {self.path} cannot be called with what a row has ({error}): that is "
                f"{', '.join(sorted(there))}; give its other parameters a default."
            ) from None
        return values

    def __call__(self, completion: Completion) -> Verdict:
        result = self.function(**self.arguments(completion))
        return self.verdict(asyncio.run(awaited(result)) if inspect.isawaitable(result) else result)

    def verdict(self, result: object) -> Verdict:
        """What the function's result means."""
        result = result.item() if hasattr(result, "item") else result  # of numpy and torch
        if isinstance(result, bool):
            result = Outcome.CORRECT if result else Outcome.WRONG
        if isinstance(result, Outcome):
            return found(result)
        if not isinstance(result, Real):
            raise ConfigError(
                f"The verifier's function {self.path} returned {result!r}: a float, a bool or an Outcome is needed."
            )
        value = float(result)
        if not math.isfinite(value):
            raise ValueError(f"it returned {result}")
        if self.accuracy and not 0 <= value <= 1:
            raise ConfigError(
                f"The verifier's function {self.path} returned {result}, but it is the accuracy: a value from 0 to 1 "
                "is needed; a reward of another range can be another part of a weighted verifier."
            )
        return graded(value)


def parameters(path: str, function: object) -> frozenset[str] | None:
    """The names that a function takes, None for all; ConfigError where prompt, completion or answer is not taken."""
    if not callable(function):
        raise ConfigError(f"The verifier's function {path} is {function!r}, which cannot be called: name a function.")
    signature = inspect.signature(function)
    named = {name for name, p in signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind == VARIABLE for p in signature.parameters.values())
    if missing := [] if takes_all else [name for name in GIVEN if name not in named]:
        raise ConfigError(
            f"The verifier's function {path}{signature} does not take {', '.join(missing)}: define it as "
            f"{path.rpartition(':')[2]}(prompt, completion, answer, **row)."
        )
    return None if takes_all else frozenset(named)


def described(path: str, error: BaseException, asked: Completion) -> str:
    """What a function raised, in which file and line, of which row, with its traceback; all of it bounded."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent] or frames
    problem = asked.problem
    row = {"prompt": problem.prompt, "completion": asked.text, "answer": problem.answer, **problem.row}
    shown = "".join(f"\n    {name}: {bounded(value)}" for name, value in row.items())
    lines = "".join(traceback.format_list(own[-FRAMES:]) + traceback.format_exception_only(error)).rstrip()
    return (
        f"The verifier's function {path} raised {bounded(f'{type(error).__name__}: {error}')} ({own[0].filename}, line "
        f"{own[0].lineno}), twice for the same answer: mend it, or have it return Outcome.CRASH where nobody can tell; "
        f"no answer was counted as wrong.\n  The row:{shown}\n  Traceback (most recent call last):\n{lines}"
    )


def bounded(value: object) -> str:
    """A value in one line, its beginning where it is long."""
    text = value if isinstance(value, str) else repr(value)
    text = visible(text.replace("\n", "\\n"))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"


def is_outage(error: BaseException) -> bool:
    """Whether an exception says that what a function needs is not there now: a network, a service, memory."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return isinstance(error, MemoryError | URLError) or any("Connect" in n or "Timeout" in n for n in names)


async def awaited(result: Any) -> Any:
    """An awaitable's result, as the coroutine that asyncio.run wants."""
    return await result
