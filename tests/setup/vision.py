"""Set-up: torchvision, which the processors of vision-language models need. `make setup` runs this, and
`make setup-vllm` in the environment of vLLM.

torchvision's wheels for Linux are built for CUDA. Beside a torch without CUDA their compiled part cannot be loaded, and
then every import of torchvision fails on two operators that nobody declared. The processors use plain torch alone, so
there, and only there, a hook declares the two when torchvision is first imported.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOOK = Path(__file__).with_name("torchvision_hook.py")
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def main() -> None:
    import torch

    pinned = re.search(r"^torchvision==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    has_cuda = torch.version.cuda is not None
    start = Path(sysconfig.get_path("purelib"), "npo_torchvision_hook.pth")
    start.unlink(missing_ok=True)  # of an earlier set-up
    subprocess.run([*PIP, "-c", ROOT / "constraints.txt", *([] if has_cuda else ["--no-deps"]), pinned], check=True)
    if not has_cuda and not importable(quiet=True):
        shutil.copy(HOOK, start.with_suffix(".py"))
        start.write_text(f"import {start.stem}\n")
    if not importable(quiet=False):
        sys.exit(f"{pinned} was installed beside torch {torch.__version__} and cannot be imported: see above.")


def importable(quiet: bool) -> bool:
    """Whether a new interpreter can import torchvision."""
    command = [sys.executable, "-c", "from torchvision.transforms.v2 import functional"]
    return subprocess.run(command, stderr=subprocess.DEVNULL if quiet else None).returncode == 0


if __name__ == "__main__":
    main()
