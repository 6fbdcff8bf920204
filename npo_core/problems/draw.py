"""Problems that a library draws, in a process of their own: `python -m npo_core.problems.draw`, settings on its input.

A stage never imports the library, whose code may be anybody's. The process has a fixed hash seed, without which some
tasks of Reasoning Gym draw others from the same seed in every process.
"""

import json
import os
import subprocess
import sys
from typing import Any

from pydantic import TypeAdapter

from npo_core.config import Columns, ReasoningGymProblems, Source, VerifiersProblems
from npo_core.errors import ConfigError
from npo_core.problems import gym, tasksets
from npo_core.problems.sources import SourceRows
from npo_core.process import PARENT, die_with_parent, own_stdout, without_secrets

DrawnProblems = ReasoningGymProblems | VerifiersProblems
COLUMNS = Columns(messages="messages", difficulty="difficulty", others=("library", "task"))
SOURCE = Source(path="drawn", columns=COLUMNS)  # how rows of both libraries are read


def check_drawn(settings: DrawnProblems) -> None:
    """Raises ConfigError where the library, a task, a level or a setting of it is not there."""
    ask(settings.model_dump_json(), "check")


def draw(settings: DrawnProblems, held_out_only: bool) -> dict[str, SourceRows]:
    """The rows of `train` and `held_out`, the same for the same settings. Raises ConfigError."""
    parts = ask(settings.model_dump_json(), "rows")
    names = ["held_out"] if held_out_only else ["train", "held_out"]
    return {part: SourceRows(f"{settings.kind}, {part}", None, list(COLUMNS.declared), parts[part]) for part in names}


def ask(settings: str, what: str) -> Any:
    """What the process answers. Raises ConfigError where it refuses the settings, or ends without an answer."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    fixed = {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", PARENT: str(os.getpid())}
    done = subprocess.run(
        [sys.executable, "-m", __name__, what],
        input=settings,
        stdout=subprocess.PIPE,
        text=True,
        env=without_secrets(os.environ) | paths | fixed,
    )
    if done.returncode:
        raise ConfigError(f"problems: drawing them ended with code {done.returncode}: see above for what it said.")
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise ConfigError(answer["refused"])
    return answer["given"]


def main() -> None:
    """Answer on standard output, to which nothing else is written."""
    die_with_parent(int(os.environ[PARENT]))
    answers = own_stdout()
    settings: DrawnProblems = TypeAdapter(DrawnProblems).validate_json(sys.stdin.read())
    library = gym if isinstance(settings, ReasoningGymProblems) else tasksets
    try:
        given = library.check(settings) if sys.argv[1] == "check" else library.rows(settings)
        answer = {"given": given}
    except ConfigError as error:
        answer = {"refused": str(error)}
    with os.fdopen(answers, "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
