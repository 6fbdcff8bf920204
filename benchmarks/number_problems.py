"""Short verifiable problems about numbers, which a model of 135 million parameters solves rarely, but does.

python -m benchmarks.number_problems FILE     as many as deployments/configs/tasks/numbers-smollm2.yaml is made for
"""

import json
import random
import sys
from pathlib import Path

ROWS = 2304


def draw(random_: random.Random) -> tuple[str, str]:
    """A question and its answer: the largest, smallest or second largest of some numbers, or the next of a series."""
    kind = random_.choice(["Largest", "Smallest", "Second largest", "Next"])
    if kind == "Next":
        first, step = random_.randint(2, 60), random_.randint(2, 12)
        shown = ", ".join(str(first + i * step) for i in range(4))
        return f"Next number: {shown}, ?", str(first + 4 * step)
    low, high = random_.choice([(10, 99), (100, 999)])
    numbers = random_.sample(range(low, high + 1), random_.randint(3, 6))
    place = {"Largest": -1, "Smallest": 0, "Second largest": -2}[kind]
    return f"{kind} of {', '.join(map(str, numbers))}?", str(sorted(numbers)[place])


def write_problems(path: Path, count: int = ROWS) -> Path:
    """Write as many different problems as rows; the same ones for the same count."""
    random_, rows = random.Random(0), dict[str, str]()
    while len(rows) < count:
        question, answer = draw(random_)
        rows[question] = answer
    lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows.items()]
    path.write_text("".join(lines))
    return path


if __name__ == "__main__":
    write_problems(Path(sys.argv[1]))
