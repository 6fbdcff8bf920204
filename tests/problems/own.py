"""Verifiers as a user might write them, some of them badly."""

import asyncio
import os
import sys
import time
from pathlib import Path

from npo_core.problems import Outcome


def same(prompt, completion, answer):
    return completion == answer


def half(prompt, completion, answer, **row):
    return 0.5


async def slowly(prompt, completion, answer, **row):
    await asyncio.sleep(0.01)
    return completion == answer


def by_level(prompt, completion, answer, level):
    return completion == answer and level == 3


def by_word(completion, **_):
    """Does what the completion says."""
    match completion:
        case "hang":
            time.sleep(3600)
        case "stubborn":  # holds the interpreter's lock, and would for years
            return pow(7, 10 ** (10**7), 10**400000) == 1
        case "exit":
            os._exit(3)
        case "leave":
            sys.exit("no")
        case "raise":
            raise ValueError("no such answer")
        case "late":
            raise TimeoutError("the service did not answer")
        case "service":
            raise ConnectionError("no service")
        case "outage":
            return Outcome.CRASH
        case "memory":
            return len(bytearray(2**33)) == 1
        case "child":
            import subprocess

            Path(os.environ["CHILD_FILE"]).write_text(str(subprocess.Popen(["sleep", "3600"]).pid))
            time.sleep(3600)
        case "gpu":
            return os.environ["CUDA_VISIBLE_DEVICES"] == ""
        case "word":
            return "yes"
        case "nan":
            return float("nan")
        case "much":
            return 5
    return completion == "right"


def marked(completion, answer, **_):
    """Leaves a mark that it was asked."""
    Path(os.environ["MARK_FILE"]).touch()
    return completion.endswith(answer)


def once_bad(completion, **_):
    """Ends its process the first time it is asked."""
    if not (mark := Path(os.environ["MARK_FILE"])).exists():
        mark.touch()
        os._exit(1)
    return completion == "right"


def once_raising(completion, **_):
    """Raises the first time it is asked."""
    if not (mark := Path(os.environ["MARK_FILE"])).exists():
        mark.touch()
        raise ValueError("not yet")
    return completion == "right"


def wants_more(prompt, completion, answer, rubric):
    return True


def no_answer(prompt, completion):
    return True


def last_digit(prompt, completion, answer, level, **row):
    """The built-in task's verifier, of a row that also has a level."""
    assert prompt.endswith("=") and level == "easy"
    return completion.isdigit() and len(completion) == 2 and completion[-1] == answer[-1]


def even(completion, **_):
    """Of right answers, which end with a digit."""
    return int(completion[-1]) % 2 == 0


def asleep(completion, **_):
    time.sleep(3600)


NUMBER = 7
