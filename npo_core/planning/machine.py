"""What a machine has: free memory of its GPUs or its own, free disk under a workspace, and how fast it computes.

What cannot be found out is None, which nothing is refused for.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from npo_core.config import RunConfig
from npo_core.errors import ConfigError
from npo_core.planning.speed import GPUS, Speed, cpu_speed, gpu_of

GIB = 2**30
MATMUL = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
for dtype in (torch.bfloat16, torch.float32):
    a, best, end = torch.ones(768, 768, dtype=dtype), 1e9, time.perf_counter() + 0.5
    while (started := time.perf_counter()) < end:
        a @ a
        best = min(best, time.perf_counter() - started)
    print(2 * 768**3 / best)
"""


@dataclass(frozen=True)
class Machine:
    """Sizes are in bytes and free now.

    `memory` is that of each GPU, or of the machine where stages run on its CPU; `host` the machine's beside GPUs.
    """

    device: str  # cpu or cuda
    gpus: int  # of all machines; 0 on a CPU
    name: str
    memory: float | None
    host: float | None
    disk: float | None
    speed: Speed | None = None


def look(
    config: RunConfig,
    folder: Path | None = None,
    *,
    gpu: str | None = None,
    gpu_memory: float | None = None,
    measure: bool = False,
) -> Machine:
    """This machine, or the GPUs that are named.

    Args:
        folder: where the run's files go; None: not on this machine.
        gpu: one of `GPUS`. gpu_memory: GiB that each has.
        measure: take two seconds to find out how fast the CPU is.

    Raises:
        ConfigError: there is no such GPU in the table.
    """
    if gpu is not None and gpu.upper() not in GPUS:
        raise ConfigError(f"gpu = {gpu}: give one of {', '.join(GPUS)}, or gpu_memory in GiB.")
    named = gpu or gpu_memory
    there = [] if named else gpus_here()
    device, disk = config.execution.device, free_disk(folder)
    if device == "cpu" or (device == "auto" and not (named or there)):
        speed = cpu_speed(*matmul_speeds(config.execution.threads)) if measure else None
        return Machine("cpu", 0, "CPU", free_memory(), None, disk, speed)
    name = gpu.upper() if gpu else there[0][0] if there else "GPU"
    known = GPUS.get(gpu_of(name) or "")
    memory = min((free for _, free in there[: config.execution.processes // config.execution.nodes]), default=None)
    if each := gpu_memory or (known.memory if gpu and known else None):
        memory = GIB * each
    host = free_memory() if there else None
    gpus = max(config.execution.processes, len(there) * config.execution.nodes)  # machines are alike
    return Machine("cuda", gpus, name, memory, host, disk, known.speed if known else None)


def gpus_here() -> list[tuple[str, float]]:
    """Name and free bytes of each GPU that is visible; none where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    if shutil.which(command[0]) is None:
        return []
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible}")
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line] if done.returncode == 0 else []
    return [(name.strip(), float(free) * 2**20) for name, free in rows if free.strip().isdigit()]


def free_memory() -> float | None:
    """Bytes that this machine, or the container this runs in, can still give."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return min(free, left) if (left := left_in_container()) is not None else free


def left_in_container(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Bytes up to the container's limit, files that can be dropped not counted as used; None without a limit."""
    try:
        limit = (root / "memory.max").read_text().strip()
        used = float((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else float(limit) - used + float(stat.get("inactive_file", 0))


def free_disk(folder: Path | None) -> float | None:
    """Free bytes where a folder is, or would be made."""
    if folder is None:
        return None
    there = next(path for path in [folder, *folder.parents] if path.exists())
    return float(shutil.disk_usage(there).free)


def matmul_speeds(threads: int) -> tuple[float, float]:
    """Operations a second of bfloat16 and float32 matrix products on so many threads, at best in half a second each."""
    command = [sys.executable, "-c", MATMUL, str(threads)]
    bf16, fp32 = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(bf16), float(fp32)
