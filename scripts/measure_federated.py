"""Measures joint edits of three nodes on the embedded patient and writes results/federated.json.

    python scripts/measure_federated.py

Each node has a request about an invented person of the dev split. Measured are: how far the joint
edit is from the one of a party that holds everything, what travels, recall of what was to be
forgotten before and after at each node; the same for several privacy budgets; and what a
coordinator could guess from the factors of a node. About a quarter of an hour on one core.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from repair.federated.coordinator import Coordinator, Report
from repair.federated.node import Node, Replay
from repair.federated.orders import Agreement, agree
from repair.federated.privacy import Privacy
from repair.federated.statistics import factors
from repair.joint import merged
from repair.operation import Operation
from repair.patient import Patient
from repair.plan import Procedure, RepairPlan
from repair.rows import build_rows
from repair.session import Session
from repair.types import Fact
from repair.world import facts

ROOT = Path(__file__).parents[1]
SEED = 0
NODES = ("north", "south", "west")
EACH = 1
OTHERS = 9
EPSILONS = (1e1, 1e4, 1e7)


class Here:
    """A link to nodes of this process."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes

    def ask(self, orders: Mapping[str, bytes]) -> dict[str, bytes]:
        return {name: self.nodes[name].answer(data) for name, data in orders.items()}


def chosen() -> list[Fact]:
    """One fact of each of so many people, drawn with the seed."""
    people: dict[str, list[Fact]] = {}
    for fact in facts("personal", "dev"):
        people.setdefault(fact.subject, []).append(fact)
    draw = random.Random(SEED)
    names = draw.sample(sorted(people), EACH * len(NODES) + OTHERS)
    return [draw.choice(people[name]) for name in names]


def run(nodes: Mapping[str, Node], agreement: Agreement) -> Report:
    session = nodes[NODES[0]].session
    return Coordinator(
        Here(nodes),
        agreement,
        content_hash=session.patient.content_hash,
        preparation=session.preparation,
    ).run(NODES)


def last_measures(node: Node) -> dict[str, Any]:
    """What the node's journal says of its last edit, kept or not."""
    events = [e for e in node.session.ledger.journal() if e["event"] != "released"]
    last = events[-1]
    found = dict(last["details"]["measures"])
    return {"kept": last["event"] == "commit", **found}


def undo(nodes: Mapping[str, Node]) -> None:
    for node in nodes.values():
        if node.session.ledger.active():
            node.session.undo()


def errors(report: Report, plans: list[RepairPlan], session: Session) -> dict[str, float]:
    """‖ΔW − ΔW of one party‖ / ‖ΔW of one party‖, by layer."""
    plan = merged(plans)
    operation = Operation(session.patient, session.preparation)
    updates = operation.solve(plan, report.strength, build_rows(session.patient, plan))
    found = {}
    for update in updates:
        wanted = update.b @ update.a
        error = (report.change[update.layer].matrix() - wanted).norm() / wanted.norm()
        found[str(update.layer)] = float(error)
    return found


def plans_of(node: Node) -> list[RepairPlan]:
    return [RepairPlan.model_validate(plan) for plan in node.state()["plans"]]


def outside(basis: torch.Tensor, keys: torch.Tensor) -> float:
    """The share of the keys' squared length that lies outside what a node's factors span."""
    rest = keys - (keys @ basis.T) @ basis
    return float(rest.square().sum() / keys.square().sum())


def rows_of(node: Node, plan: RepairPlan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, residual and weights of a plan at its only layer."""
    patient = node.session.patient
    replay = Replay(patient, node.session.preparation, {})
    replay.solve(plan, 1.0, build_rows(patient, plan))
    if replay.found is None:
        raise RuntimeError("the layer never ran")
    return replay.found


def guesses(node: Node, asked: list[Fact], others: list[Fact]) -> dict[str, Any]:
    """Whether factors give away which questions a node has: requested against other people's."""
    layer = Procedure().layers_of(len(node.session.patient.layers))[0]
    plan = merged(plans_of(node)).model_copy(update={"layers": (layer,)})
    sent = factors(*rows_of(node, plan)).keys
    basis = torch.linalg.svd(sent, full_matrices=False)[2]
    found = []
    for group in (asked, others):
        shares = []
        for fact in group:
            known = node.session.surgeon.known(fact.question)
            if known:
                own = plan.model_copy(update={"facts": tuple(known), "neighbours": ()})
                shares.append(outside(basis, rows_of(node, own)[0].double()))
        found.append(shares)
    right = [a < b for a in found[0] for b in found[1]]
    return {"requested": found[0], "others": found[1], "auc": sum(right) / len(right)}


def main() -> None:
    picked = chosen()
    own = {name: picked[i * EACH : (i + 1) * EACH] for i, name in enumerate(NODES)}
    result: dict[str, Any] = {"seed": SEED, "nodes": len(NODES), "requests_each": EACH}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        nodes = {}
        for name, wanted in own.items():
            session = Session(Patient.load(), home=Path(folder) / name)
            stack.enter_context(session)
            stack.enter_context(session.patient.remembering())
            nodes[name] = Node(session, [f"Please forget this: {f.question}" for f in wanted])
        layers = len(nodes[NODES[0]].session.patient.layers)
        for kind, masked in (("factors", False), ("masked", True)):
            start = time.perf_counter()
            report = run(nodes, agree(Procedure(), layers, masked=masked))
            result[kind] = {**report.to_json(), "nodes": {}}
            result[kind]["wall_seconds"] = round(time.perf_counter() - start, 1)
            for name, node in nodes.items():
                seen = last_measures(node)
                result[kind]["nodes"][name] = {**report.nodes[name], "measures": seen}
            undo(nodes)
            whole = [plan for node in nodes.values() for plan in plans_of(node)]
            result[kind]["error"] = errors(report, whole, nodes[NODES[0]].session)
            print(kind, result[kind]["error"], flush=True)
        result["guesses"] = guesses(nodes["north"], own["north"], picked[EACH * len(NODES) :])
        print("guesses", result["guesses"], flush=True)
        result["noise"] = []
        for epsilon in EPSILONS:
            agreement = agree(Procedure(), layers, epsilon=epsilon)
            privacy = Privacy(epsilon, agreement.delta, len(agreement.layers))
            run(nodes, agreement)
            rows = {name: last_measures(node) for name, node in nodes.items()}
            undo(nodes)
            row = {"epsilon": epsilon, "delta": privacy.delta, "sigma": privacy.sigma}
            result["noise"].append({**row, "nodes": rows})
            print(epsilon, {n: (r["kept"], r.get("recall")) for n, r in rows.items()}, flush=True)
    path = ROOT / "results" / "federated.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
