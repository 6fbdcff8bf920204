"""How fast devices compute: published peaks, and the share of them that training is taken to reach."""

from dataclasses import dataclass

GPU_SHARE, GPU_LAYER, LINK_SHARE = 0.4, 0.5e-3, 0.7
CPU_SHARE, CPU_BANDWIDTH, CPU_LAYER = 0.5, 8e9, 0.3e-3


@dataclass(frozen=True)
class Speed:
    """What a stage's time is estimated from."""

    bf16: float  # operations a second at most
    fp32: float
    bandwidth: float  # bytes a second from memory, at most
    share: float  # of the peaks that is reached
    layer: float  # seconds of one block for one token of every row, however little it computes
    link: float = float("inf")  # bytes a second to other devices of the machine that are reached

    def flops(self, product_bytes: int) -> float:
        """Operations a second that are reached with numbers of so many bytes."""
        return self.share * (self.bf16 if product_bytes == 2 else self.fp32)


@dataclass(frozen=True)
class Gpu:
    memory: float  # GiB that a process can have
    speed: Speed


def gpu(memory: float, bf16: float, fp32: float, bandwidth: float, link: float) -> Gpu:
    """A GPU from its memory (GiB), TFLOP/s in bf16 and fp32, TB/s to its memory, and GB/s one way to other GPUs."""
    speeds = (bf16 * 1e12, fp32 * 1e12, bandwidth * 1e12, GPU_SHARE, GPU_LAYER, LINK_SHARE * link * 1e9)
    return Gpu(memory, Speed(*speeds))


# Memory in GiB; dense bfloat16 and float32, 1e12 operations a second; 1e12 bytes a second; 1e9 bytes a second one way
# over NVLink of an SXM board (L4: PCI Express). From NVIDIA's data sheets.
GPUS = {
    "H200": gpu(139, 989, 67, 4.8, 450),
    "H100": gpu(79, 989, 67, 3.35, 450),
    "A100": gpu(79, 312, 19.5, 2.0, 300),
    "L4": gpu(22, 121, 30, 0.3, 32),
}


def gpu_of(name: str) -> str | None:
    """The row of `GPUS` for what a driver calls a device."""
    return next((known for known in GPUS if known in name.upper().replace("-", " ").split()), None)


def cpu_speed(bf16: float, fp32: float) -> Speed:
    """A CPU whose matrix products were measured, in operations a second."""
    return Speed(bf16, fp32, CPU_BANDWIDTH, CPU_SHARE, CPU_LAYER)
