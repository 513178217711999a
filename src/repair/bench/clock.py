"""Seconds of things that run side by side on a noisy machine; knows no models.

Each thing runs once for warming up and is then repeated in turns with the others, so that what
disturbs one disturbs all; a ratio is the median over the turns of the ratios within a turn.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Timed = Mapping[str, Sequence[float]]


def interleaved(
    things: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    *,
    seconds: float = math.inf,
    after: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every repeat of every thing; at least one each, no new turn after ``seconds``.

    ``after`` puts things back after each call; its own time does not count.
    """
    took: dict[str, list[float]] = {name: [] for name in things}
    for call in things.values():
        call()
        after()
    begun = time.perf_counter()
    for _ in range(repeats):
        for name, call in things.items():
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            took[name].append(time.perf_counter() - start)
            after()
        if time.perf_counter() - begun > seconds:
            break
    return took


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(took: Timed, name: str, to: str) -> float:
    """The median over the turns of one thing's seconds over another's in the same turn."""
    return median([a / b for a, b in zip(took[name], took[to], strict=True)])


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(size), by least squares."""
    x, y = [math.log(v) for v in sizes], [math.log(v) for v in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    up = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return up / sum((a - mean_x) ** 2 for a in x)


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Copy bandwidth (bytes read and written a second) and matmul rates (flop a second)."""
    block = torch.empty(1 << 27, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    double = torch.float64 if device.type != "mps" else torch.float32
    x, y = a.to(double), b.to(double)
    took = interleaved(
        {"copy": lambda: target.copy_(block), "matmul": lambda: a @ b, "fp64": lambda: x @ y},
        7,
        device,
    )
    return {
        "copy_bytes_a_second": 2 * block.numel() / min(took["copy"]),
        "matmul_flop_a_second": 2 * side**3 / min(took["matmul"]),
        "fp64_flop_a_second": 2 * side**3 / min(took["fp64"]),
    }


def peak_bytes(device: torch.device) -> int:
    """The most memory that was held so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
