"""How the cost of an edit grows with m, r, n, layers and earlier edits; knows no quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from repair.bench.clock import exponent, interleaved, median
from repair.bench.speed_shapes import build
from repair.earlier import Protection
from repair.stamp import Statistics, stamp, stamp_low_rank
from repair.types import Edit, LowRankUpdate

BETA, RIDGE = 1000.0, 0.1
# Rows that an edit leaves behind, as ``operation.KEPT_RANK``.
KEPT = 48
CPU = torch.device("cpu")


def _statistics(m: int, r: int, device: torch.device) -> Statistics:
    u, _ = torch.linalg.qr(torch.randn(m, r))
    made = Statistics(u.to(device), torch.linspace(1.0, 0.01, r).to(device), 0.001)
    _ = made.basis
    return made


def _solve(m: int, r: int, n: int, device: torch.device) -> Callable[[], object]:
    """One STAMP-LR solve with d = m / 4 outputs, as in a gated MLP."""
    known = _statistics(m, r, device)
    keys, residual = torch.randn(n, m, device=device), torch.randn(n, m // 4, device=device)
    return lambda: stamp_low_rank(keys, residual, statistics=known, beta=BETA, ridge=RIDGE)


def _solve_full(m: int, n: int, device: torch.device) -> Callable[[], object]:
    keys, residual = torch.randn(n, m, device=device), torch.randn(n, m // 4, device=device)
    moment = _statistics(m, m // 8, device).matrix().to(device)
    return lambda: stamp(keys, residual, second_moment=moment, beta=BETA, ridge=RIDGE)


def _curve(
    sizes: Iterable[int], make: Callable[[int], Callable[[], object]], repeats: int, seconds: float
) -> dict[str, Any]:
    """Median seconds at each size, and the exponent over the larger half of them.

    Small sizes cost their overhead, whatever the exponent.
    """
    things = {str(size): make(size) for size in sizes}
    took = interleaved(things, repeats, CPU, seconds=seconds)
    known = [int(size) for size in things]
    found = [median(took[str(size)]) for size in known]
    half = len(known) // 2
    return {
        "sizes": known,
        "seconds": found,
        "exponent": exponent(known[half - 1 :], found[half - 1 :]),
    }


def scaling(*, quick: bool, device: torch.device = CPU) -> dict[str, Any]:
    """Curves over m, r, n and the number of earlier edits, with fitted exponents.

    On one thread: how well a library spreads small products is no property of the method.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _scaling(quick=quick, device=device)
    finally:
        torch.set_num_threads(threads)


def _scaling(*, quick: bool, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    repeats, seconds = (3, 4.0) if quick else (9, 25.0)
    low = (512, 1024, 2048, 4096) if quick else (1024, 2048, 4096, 8192, 16384)
    full = (256, 512, 1024) if quick else (512, 1024, 2048, 4096)
    return {
        "stamp-lr over m (r 128, n 32)": _curve(
            low, lambda m: _solve(m, 128, 32, device), repeats, seconds
        ),
        "stamp over m (n 32)": _curve(full, lambda m: _solve_full(m, 32, device), repeats, seconds),
        "stamp-lr over r (m 4096, n 32)": _curve(
            (64, 128, 256, 512, 1024), lambda r: _solve(4096, r, 32, device), repeats, seconds
        ),
        "stamp-lr over n (m 4096, r 128)": _curve(
            (8, 32, 128, 512), lambda n: _solve(4096, 128, n, device), repeats, seconds
        ),
        "edits": _edits(100 if quick else 1000, repeats, seconds),
    }


def _fake(identity: int, m: int, d: int, layers: int) -> Edit:
    """An edit of the size of a real one, too weak to change a reply."""
    generator = torch.Generator().manual_seed(identity)

    def drawn(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    return Edit(
        identity,
        tuple(
            LowRankUpdate(layer, 1e-6 * drawn(d, 16), 1e-3 * drawn(16, m), drawn(KEPT, m))
            for layer in range(layers)
        ),
    )


def _edits(count: int, repeats: int, seconds: float) -> dict[str, Any]:
    """The first edit beside the last of many: protection, solve, apply; and generation.

    Every edit's rows wait, and are taken into C by the hundred: the time of that is in
    ``taking_in``, spread over the edits that share it.
    """
    patient = build("embedded", device="cpu")
    out = patient.layers[0]
    m, d, layers = out.in_features, out.out_features, len(patient.layers)
    base = {layer: _statistics(m, 512, CPU) for layer in range(layers)}
    keys, residual = torch.randn(32, m), torch.randn(32, d)
    active = [_fake(i, m, d, layers) for i in range(1, count + 1)]
    prompts = [patient.user_opening()] * 8
    kept = Protection(base, BETA)

    def edit(before: list[Edit], guard: Protection) -> None:
        known = guard.kept(before)
        made = []
        for layer in range(layers):
            rows = torch.cat([keys, known[layer].rows])
            change = torch.cat([residual, residual.new_zeros(len(known[layer].rows), d)])
            low = stamp_low_rank(
                rows, change, statistics=known[layer].statistics, beta=BETA, ridge=RIDGE
            )
            made.append(LowRankUpdate(layer, 1e-6 * low.b, low.a))
        with patient.trial(made):
            pass

    def at(before: list[Edit], guard: Protection) -> dict[str, float]:
        patient.apply(before)
        took = interleaved(
            {
                "edit": lambda: edit(before, guard),
                "generate": lambda: patient.generate_ids(prompts, 16),
            },
            repeats,
            CPU,
            seconds=seconds / 4,
        )
        return {name: median(values) for name, values in took.items()}

    first = at([], Protection(base, BETA))
    taking = interleaved({"take in": lambda: Protection(base, BETA).kept(active[:9])}, 1, CPU)
    kept.kept(active[:-1])
    last = at(active[:-1], kept)
    return {
        "count": count,
        "first": first,
        "last": last,
        "taking_in": median(taking["take in"]) / 8,
        "last_over_first": last["edit"] / first["edit"],
        "generation_last_over_first": last["generate"] / first["generate"],
    }
