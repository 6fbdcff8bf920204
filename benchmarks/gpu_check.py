"""Checks training on the GPU at hand, the most important first, and writes what it found into docs/gpu.md.

    python -m benchmarks.gpu_check                      ends at once, with a sentence, where there is no CUDA device
    python -m benchmarks.gpu_check --model FOLDER       SmolLM2-135M-Instruct or another pretrained model as well
    python -m benchmarks.gpu_check --device cpu --tiny  the same code at a size that measures nothing, nothing written

Every part is a process of its own (`benchmarks.gpu_parts`); those of a group run side by side, as only "steps" is
timed, which runs alone. What a part has found is written as soon as it is there, so a check that is killed, or that
reaches --minutes, keeps it.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.common import ROOT, demo_config, say, settle

DOCS = ROOT / "docs/gpu.md"
GROUPS = (
    ("exact, fp32", "exact, bf16", "exact, bf16, adapters", "real"),
    ("steps",),
    ("vision", "exact, bf16, deterministic", "plan"),
)


def card(device: str) -> str:
    """The device and what drives it, asked in a process that ends: none holds memory beside the parts."""
    if device != "cuda":
        return "CPU"
    ask = (
        "import torch; major, minor = torch.cuda.get_device_capability(); "
        "print(f'{torch.cuda.get_device_name()} (compute capability {major}.{minor}, CUDA {torch.version.cuda})')"
    )
    done = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def section(title: str, found: dict[str, str]) -> str:
    """The dated part of docs/gpu.md, of what is there so far."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    head = f"## {datetime.now(UTC).date().isoformat()}, {title}\n\nPython {platform.python_version()}, {packages}."
    return "\n\n".join([head, *(f"### {name}\n\n{text}" for name, text in found.items())])


class Part:
    """A part's process and what it printed so far."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path):
        self.name, self.path = name, folder / f"{name.replace(', ', '-')}.md"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_parts", name, "--device", options.device]
        command += ["--steps", str(options.steps), *(["--tiny"] if options.tiny else [])]
        command += ["--model", options.model] if options.model else []
        with self.path.open("w") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out)
        self.started = time.monotonic()

    def over(self, deadline: float) -> bool:
        """Whether it ended; beyond the deadline it is ended."""
        if time.monotonic() > deadline and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        return self.process.poll() is not None

    @property
    def text(self) -> str:
        """What it found, and how it ended."""
        end = {None: "Not over.", 0: ""}.get(code := self.process.poll(), f"It ended with {code} before all was found.")
        return "\n\n".join(part for part in (self.path.read_text().strip(), end) if part)


def check(options: argparse.Namespace, title: str, folder: Path) -> dict[str, str]:
    """Run the parts, group by group; written after every part that ends."""
    deadline, found = time.monotonic() + 60 * options.minutes, {}
    for group in GROUPS:
        names = [name for name in group if name in options.parts and (name != "real" or options.model)]
        running = [] if time.monotonic() > deadline else [Part(name, options, folder) for name in names]
        found |= dict.fromkeys(names, "Not begun: no time was left.")
        while running:
            time.sleep(0.5)
            for part in [part for part in running if part.over(deadline)]:
                running.remove(part)
                found[part.name] = part.text
                say(f"gpu-check: {part.name}: {time.monotonic() - part.started:.0f} s\n{part.text}\n")
                write(options, section(title, found))
    return found


def write(options: argparse.Namespace, text: str) -> None:
    """Add the section to the page, in the place of the one that this check wrote before."""
    if options.out is not None:
        before = options.before if options.out == DOCS else ""
        options.out.write_text(f"{before}\n\n{text}\n".lstrip())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=40, help="updates of scout and replay, a multiple of 20")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the check works")
    parser.add_argument("--model", help="folder of a pretrained instruct model that is trained as well")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part goes on for longer")
    parser.add_argument("--out", type=Path, help="file for the section; by default docs/gpu.md, on a GPU")
    every = [name for group in GROUPS for name in group]
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    options = parser.parse_args()
    if options.model and not Path(options.model).is_dir():
        parser.error(f"--model {options.model} is no folder: give the folder of a model in Hugging Face's format")
    if options.out is None and options.device == "cuda" and not options.tiny:
        options.out = DOCS
    options.before = DOCS.read_text().rstrip()
    return options


def main() -> int:
    options = parse_arguments()
    settle(demo_config(options.tiny))
    if not (title := card(options.device)):
        print("There is no CUDA device here, so nothing was checked: run `make gpu-check` on a machine with one.")
        return 0
    with tempfile.TemporaryDirectory(prefix="npo-gpu-") as folder:
        print(section(title, check(options, title, Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
