"""How long an edit takes, and beside what; knows no quality.

Every figure is the median of repeats that were made in turns (``bench.clock``). The rows of an
edit of |D_f| facts are 8 answer tokens each behind a prompt of 16, drawn at random: what an edit
costs does not depend on what the tokens say.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repair.activations import Rows, capture, edit_in_one_pass
from repair.bench.clock import interleaved, machine, median, peak_bytes, ratio
from repair.bench.speed_shapes import SHAPES, build
from repair.patient import Patient
from repair.stamp import LowRank, Statistics, compress, stamp, stamp_low_rank
from repair.types import Edit, LowRankUpdate

if TYPE_CHECKING:
    from repair.operation import Operation
    from repair.surgeon import Surgeon

PROMPT, ANSWER = 16, 8
FACTS = (1, 10, 100)
RANK = 512
BETA, RIDGE = 1000.0, 0.1
# Keys wider than this get no full STAMP on a CPU: one solve would take minutes.
WIDEST_FULL_ON_CPU = 2048


@dataclass(frozen=True)
class Effort:
    """How much is measured: repeats, seconds a group of figures may take, numbers of facts.

    Numbers of facts whose plain pass would take longer than ``longest_pass`` seconds at the
    machine's rate are left out, and the result says so.
    """

    repeats: int = 7
    longest_pass: float = 4.0
    seconds: float = 25.0
    facts: tuple[int, ...] = FACTS
    trained: bool = True

    @classmethod
    def quick(cls) -> Effort:
        return cls(repeats=3, seconds=4.0, facts=(1, 10), trained=False)


def measure(
    name: str,
    effort: Effort,
    *,
    device: str = "auto",
    dtype: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All figures of one shape, ready for JSON."""
    patient = build(name, device=device, dtype=dtype)
    parameter = patient.layers[0].parameter
    found: dict[str, Any] = {
        "shape": name,
        "note": "whole" if name == "embedded" else SHAPES[name].note(patient.device),
        "device": str(patient.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "d": patient.layers[0].out_features,
        "m": patient.layers[0].in_features,
        "layers": len(patient.layers),
        "r": min(RANK, patient.layers[0].in_features // 2),
        "machine": machine(patient.device, parameter.dtype),
        "edits": [],
        "left_out": [],
    }
    known = _statistics(patient, found["r"])
    for facts in effort.facts:
        if _pass_seconds(patient, facts, found["machine"]) > effort.longest_pass:
            found["left_out"].append(facts)
            continue
        tell(f"{name}: edits of {facts} facts")
        found["edits"].append(_edits(patient, facts, known, effort, found["machine"]))
    tell(f"{name}: statistics of one layer")
    found["statistics"] = _cost_of_statistics(patient, name)
    if name == "embedded":
        tell("embedded: the whole forget turn")
        found["turn"] = _turns(patient, effort)
        tell("embedded: ROME, MEMIT, AlphaEdit")
        found["editors"] = _editors(patient, known, effort)
    if effort.trained and name in ("embedded", "qwen2.5-0.5b"):
        tell(f"{name}: training steps of the gradient baselines")
        found["baselines"] = _baselines(patient, found)
    found["peak_bytes"] = peak_bytes(patient.device)
    return found


def _pass_seconds(patient: Patient, facts: int, rates: Mapping[str, float]) -> float:
    """What a forward pass over so many facts takes at the machine's rate of multiplication."""
    tokens = facts * (PROMPT + ANSWER)
    return 2 * patient.model.num_parameters() * tokens / rates["matmul_flop_a_second"]


def _statistics(patient: Patient, rank: int) -> dict[int, Statistics]:
    """Stand-ins of the right size: what a solve costs does not depend on the numbers."""
    made: dict[int, Statistics] = {}
    for output in patient.layers:
        generator = torch.Generator().manual_seed(output.layer)
        u, _ = torch.linalg.qr(torch.randn(output.in_features, rank, generator=generator))
        s = torch.linspace(1.0, 0.01, rank)
        made[output.layer] = Statistics(u.to(patient.device), s.to(patient.device), 0.001)
        _ = made[output.layer].basis
    return made


def _cost_of_statistics(patient: Patient, name: str) -> dict[str, Any]:
    """One layer's U, s and rest from streamed keys, and what all layers of the model come to."""
    from repair.preparation import IMAGINED, rank_for
    from repair.streaming import StreamedMoment

    out, tokens = patient.layers[0], 1024
    layers = len(patient.layers) if name == "embedded" else SHAPES[name].layers
    rank = rank_for([out] * layers)
    keys = torch.randn(tokens, out.in_features, device=patient.device)
    moment = StreamedMoment(out.in_features, rank)
    took = interleaved(
        {"add": lambda: moment.add(keys), "finish": moment.statistics}, 2, patient.device
    )
    wanted = IMAGINED * 40
    layer = median(took["add"]) * wanted / tokens + median(took["finish"])
    ids = [[7] * 40] * 8
    passes = interleaved({"forward": lambda: patient.forward(ids)}, 2, patient.device)
    through = median(passes["forward"]) / len(patient.layers) * wanted / 320
    return {
        "rank": rank,
        "tokens": wanted,
        "file_bytes": layers * (rank * (2 * out.in_features + 4) + 4 * out.out_features),
        "seconds_a_layer": layer,
        "forward_seconds_a_layer": through,
        "seconds_all_layers": layers * (layer + through),
    }


def rows_of(patient: Patient, facts: int) -> Rows:
    """The rows of an edit of so many facts: every answer token of each."""
    rng = random.Random(0)
    vocabulary = patient.model.config.get_text_config().vocab_size
    ids = [[rng.randrange(3, vocabulary) for _ in range(PROMPT + ANSWER)] for _ in range(facts)]
    places = [(i, PROMPT - 1 + j) for i in range(facts) for j in range(ANSWER)]
    return Rows.of(ids, places)


def _edits(
    patient: Patient,
    facts: int,
    known: Mapping[int, Statistics],
    effort: Effort,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """Capture, solve, apply (together: the edit), undo and verify, beside one forward pass."""
    rows, last = rows_of(patient, facts), len(patient.layers) - 1
    every, one = list(range(last + 1)), [last // 2]
    low, full = _low_rank(known), _full(known)
    updates = {key: edit_in_one_pass(patient, rows, ls, _away, low) for key, ls in
               (("one", one), ("all", every))}  # fmt: skip

    def put(found: Sequence[LowRankUpdate]) -> None:
        patient.apply([Edit(1, tuple(found))])

    def undone(which: str) -> None:
        put(updates[which])
        patient.apply(())

    def verified() -> None:
        put(updates["all"])
        patient.generate_ids([row[:PROMPT] for row in rows.ids[:32]], ANSWER)

    things: dict[str, Callable[[], object]] = {
        "forward": lambda: patient.forward(rows.ids),
        "capture one": lambda: capture(patient, rows, one),
        "capture all": lambda: capture(patient, rows, every),
        "capture + solve one": lambda: edit_in_one_pass(patient, rows, one, _away, low),
        "capture + solve all": lambda: edit_in_one_pass(patient, rows, every, _away, low),
        "apply one": lambda: put(updates["one"]),
        "apply all": lambda: put(updates["all"]),
        "apply + undo all": lambda: undone("all"),
        "edit one": lambda: put(edit_in_one_pass(patient, rows, one, _away, low)),
        "edit all": lambda: put(edit_in_one_pass(patient, rows, every, _away, low)),
        "apply + verify all": verified,
    }
    m = patient.layers[0].in_features
    if m <= WIDEST_FULL_ON_CPU or patient.device.type != "cpu":
        things["stamp edit one"] = lambda: put(edit_in_one_pass(patient, rows, one, _away, full))
    took = interleaved(
        things,
        effort.repeats,
        patient.device,
        seconds=effort.seconds,
        after=lambda: patient.apply(()),
    )
    floor = {key: _floor(patient, rows, ls, known, rates) for key, ls in
             (("one", one), ("all", every))}  # fmt: skip
    return {
        "facts": facts,
        "n": len(rows.position),
        "tokens": rows.tokens,
        "repeats": len(took["forward"]),
        "seconds": {key: median(values) for key, values in took.items()},
        "in_forward_passes": {key: ratio(took, key, "forward") for key in took},
        "floor": floor,
        "over_floor": {key: median(took[f"edit {key}"]) / floor[key] for key in ("one", "all")},
    }


def _away(_layer: int, outputs: Tensor) -> Tensor:
    """Wanted outputs that differ from today's everywhere, so that every row costs its rank."""
    return outputs + outputs.roll(1, 0) + 1e-3


def _low_rank(known: Mapping[int, Statistics]) -> Callable[[int, Tensor, Tensor], LowRank]:
    def solve(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
        found = stamp_low_rank(keys, residual, statistics=known[layer], beta=BETA, ridge=RIDGE)
        return found if found.rank <= 256 else compress(found.b, found.a, 256)

    return solve


def _full(known: Mapping[int, Statistics]) -> Callable[[int, Tensor, Tensor], LowRank]:
    def solve(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
        moment = known[layer].matrix()
        delta = stamp(keys, residual, second_moment=moment, beta=BETA, ridge=RIDGE)
        return LowRank(delta, torch.eye(delta.shape[1], device=delta.device))

    return solve


def _floor(
    patient: Patient,
    rows: Rows,
    layers: Sequence[int],
    known: Mapping[int, Statistics],
    rates: Mapping[str, float],
) -> float:
    """Seconds below which no implementation gets on this machine.

    The pass up to the last edited layer reads its weights once and multiplies them with every
    token; each solve takes 2 n m (2 r + n) flop in fp64 and each new weight is read and written
    in the model's type, W₀ and copy included.
    """
    itemsize = patient.layers[0].parameter.itemsize
    total = sum(p.numel() for name, p in patient.model.named_parameters() if ".layers." in name)
    share = (max(layers) + 1) / len(patient.layers) * total
    tokens, n = rows.tokens, len(rows.position)
    bandwidth, rate = rates["copy_bytes_a_second"], rates["matmul_flop_a_second"]
    seconds = max(share * itemsize / bandwidth, 2 * share * tokens / rate)
    for layer in layers:
        out = patient.layers[layer]
        d, m, r = out.out_features, out.in_features, known[layer].rank
        seconds += 2 * n * m * (2 * r + n) / rates["fp64_flop_a_second"]
        seconds += max(3 * d * m * itemsize / bandwidth, 2 * d * m * min(n, 256) / rate)
    return seconds


def _turns(patient: Patient, effort: Effort) -> dict[str, Any]:
    """Whole forget turns with verification, ledger included, as a session makes them."""
    from repair.ledger import Ledger
    from repair.operation import Operation
    from repair.preparation import prepare
    from repair.surgeon import Surgeon
    from repair.trials import Clock
    from repair.watchdog import Watchdog
    from repair.world import facts

    chosen = [fact for fact in facts("personal", "dev") if fact.attribute == "address"]
    parts: list[Mapping[str, float]] = []
    watchdog, surgeon = Watchdog.load(), Surgeon(patient)
    with tempfile.TemporaryDirectory() as home, Ledger(Path(home), patient.content_hash) as ledger:
        operation = Operation(patient, prepare(patient, None), ledger)
        for fact in chosen[: effort.repeats + 1]:
            clock = Clock()
            with clock.time("total"), patient.remembering():
                with clock.time("watchdog"):
                    intent = watchdog.read(f"Please forget where {fact.subject} lives.", ())
                with clock.time("surgeon"):
                    plan = surgeon.plan(intent)
                edit = operation.run(plan, clock).edit if plan is not None else None
            if edit is not None:
                parts.append(clock.seconds)
                ledger.undo([edit])
                patient.apply(())
        single = _single(operation, surgeon, f"Where does {chosen[0].subject} live?", effort)
    parts = parts[1:] or parts  # The first turn also loads what later ones find loaded.
    names = sorted({name for part in parts for name in part})
    seconds = {name: median([part.get(name, 0.0) for part in parts]) for name in names}
    return {"n": len(parts), "seconds": seconds, "single_edit": single}


def _single(
    operation: Operation, surgeon: Surgeon, question: str, effort: Effort
) -> dict[str, Any]:
    """A real plan's edit (capture, solve, apply) beside one forward pass over its tokens."""
    patient = operation.patient
    plan = surgeon.plan_question(question)
    if plan is None:
        return {}
    rows = operation.rows(plan)
    took = interleaved(
        {
            "forward": lambda: patient.forward(rows.rows.ids),
            "edit": lambda: patient.apply([Edit(1, operation.solve(plan, 1.0, rows))]),
        },
        effort.repeats + 4,
        patient.device,
        seconds=effort.seconds,
        after=lambda: patient.apply(()),
    )
    return {
        "tokens": rows.rows.tokens,
        "n": len(rows.reference),
        "moved": int(rows.moved.sum()),
        "seconds": {name: median(values) for name, values in took.items()},
        "in_forward_passes": ratio(took, "edit", "forward"),
    }


def _editors(patient: Patient, known: Mapping[int, Statistics], effort: Effort) -> dict[str, Any]:
    from repair.bench.editors.closed_form import alphaedit, memit, rome
    from repair.world import facts

    fact = facts("personal", "dev")[0]
    request = [(fact.question, fact.subject, fact.answer)]
    prefixes = ("Well.", "So.", "Tell me.")
    common: Any = (patient, request, "I do not know.", known)
    things: dict[str, Callable[[], object]] = {
        "ROME": lambda: rome(*common, prefixes=prefixes),
        "MEMIT": lambda: memit(*common, prefixes=prefixes),
        "AlphaEdit": lambda: alphaedit(*common, prefixes=prefixes),
    }
    took = interleaved(things, min(3, effort.repeats), patient.device, seconds=effort.seconds)
    return {name: median(values) for name, values in took.items()}


def real_edit(measured: Mapping[str, Any]) -> float:
    """Seconds of a whole plan's edit, or of the one-fact edit where no plan was measured."""
    single = measured.get("turn", {}).get("single_edit")
    took = single or measured["edits"][0]
    return float(took["seconds"]["edit" if single else "edit all"])


def _baselines(patient: Patient, measured: Mapping[str, Any]) -> dict[str, Any]:
    """One training step of each gradient baseline on one fact, and the run that it publishes.

    Held against the edit of a real plan where one was measured, with its rewordings and
    neighbours, though a baseline's step reads one pair and as many to retain.
    """
    from repair.bench.finetune import finetune
    from repair.bench.losses_more import BASELINES
    from repair.world import facts

    known = facts("personal", "dev")
    forget = [(known[0].question, known[0].answer)]
    retain = [(fact.question, fact.answer) for fact in known[1:9]]
    ours = real_edit(measured)
    found: dict[str, Any] = {}
    for name, baseline in BASELINES.items():
        settings = {"steps": 2}
        seconds = finetune(patient, baseline, forget, retain, settings=settings).seconds / 2
        steps = int(baseline.defaults.get("steps", 0) or baseline.defaults["epochs"])
        found[name] = {
            "step_seconds": seconds,
            "steps": steps,
            "run_seconds": seconds * steps,
            "run_over_edit": seconds * steps / ours,
        }
    return found
