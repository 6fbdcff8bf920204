"""Short verifiable problems about numbers, each with an example of its kind as a turn before it.

python -m benchmarks.number_problems FILE     as many as deployments/configs/tasks/numbers-smollm2.yaml is made for

SmolLM2-135M-Instruct solves about an eighth of its samples of them: a fifth where numbers are compared, one in twenty
where they are computed with.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

ROWS = 2304

Drawn = tuple[str, int]  # a question and its answer


def compared(name: str, place: int) -> Callable[[random.Random], Drawn]:
    """Which of three to six numbers has this place in their order."""

    def draw(random_: random.Random) -> Drawn:
        numbers = random_.sample(range(10, 100), random_.randint(3, 6))
        return f"{name} of {', '.join(map(str, numbers))}?", sorted(numbers)[place]

    return draw


def total(random_: random.Random) -> Drawn:
    a, b = random_.randint(1, 25), random_.randint(1, 25)
    return f"{a} + {b} = ?", a + b


def difference(random_: random.Random) -> Drawn:
    a, b = sorted((random_.randint(1, 25), random_.randint(1, 25)))
    return f"{b} - {a} = ?", b - a


def product(random_: random.Random) -> Drawn:
    a, b = random_.randint(2, 20), random_.randint(2, 12)
    return f"{a} * {b} = ?", a * b


KINDS = {
    "largest": compared("Largest", -1),
    "smallest": compared("Smallest", 0),
    "second": compared("Second largest", -2),
    "total": total,
    "difference": difference,
    "product": product,
}


def write_problems(path: Path, count: int = ROWS) -> Path:
    """Write as many different problems as rows; the same ones for the same count."""
    random_, rows = random.Random(0), dict[str, dict]()
    examples = {kind: draw(random_) for kind, draw in KINDS.items()}
    while len(rows) < count:
        kind = random_.choice(list(KINDS))
        question, answer = KINDS[kind](random_)
        turns = [*examples[kind], question]
        said = [{"role": "assistant" if i == 1 else "user", "content": str(turn)} for i, turn in enumerate(turns)]
        if question != examples[kind][0]:
            rows[question] = {"messages": said, "answer": str(answer), "kind": kind}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    return path


if __name__ == "__main__":
    write_problems(Path(sys.argv[1]))
