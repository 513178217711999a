"""The parts of one running server, put together; what a route needs it finds here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repair.errors import UsageError
from repair.factcheck import TrustedFact
from repair.ledger import Ledger
from repair.patient import Patient
from repair.people import People, Policy
from repair.pictures import from_url
from repair.policy import Policy as RequestPolicy
from repair.server.access import Access
from repair.server.batch import LocalEngine
from repair.server.engine import Engine
from repair.server.history import History
from repair.server.metrics import Metrics
from repair.server.remote import Remote, RemoteEngine
from repair.server.theatre import Theatre, twin
from repair.server.trusted import Trusted
from repair.session import Session


@dataclass
class Service:
    """An engine that answers, a theatre that operates, and who may use them."""

    engine: Engine
    theatre: Theatre
    access: Access
    history: History = field(default_factory=History)
    metrics: Metrics = field(default_factory=Metrics)
    trusted: Trusted = field(default_factory=Trusted)

    @property
    def ledger(self) -> Ledger:
        """The ledger as everyone sees it."""
        return self.theatre.ledger

    def show(self, url: str) -> str:
        """Show the picture in a ``data:`` URL to the model; its reference.

        Raises:
            UsageError: no picture, a model that reads text alone, or one that answers elsewhere.
        """
        if not isinstance(self.engine, LocalEngine):
            raise UsageError(
                "A server whose replicas answer takes no pictures.",
                "Serve the model with --engine transformers.",
            )
        return self.theatre.session.patient.show(from_url(url))

    def close(self) -> None:
        """Finish what is in hand and let go of threads and files."""
        self.engine.close()
        self.theatre.close()
        self.access.people.close()


def open_service(
    patient: Patient,
    home: Path,
    *,
    database: str | None = None,
    policy: Policy | None = None,
    rules: RequestPolicy | None = None,
    local: bool = True,
    replicas: Sequence[Remote] = (),
    facts: Sequence[TrustedFact] = (),
) -> Service:
    """A service that answers with ``patient`` itself, or with other servers of the same model.

    Args:
        patient: without edits; the service owns it from now on.
        policy: what people with and without keys may do.
        rules: what may be asked of the model; None takes the rules that ship.
        local: the server will listen on a loopback address alone.
        replicas: who answers instead of this process; they get the edits as adapters.
        facts: what a curator may have answers held to.
    """
    operated = patient if replicas else twin(patient)
    theatre = Theatre(Session(operated, home=home, database=database, policy=rules))
    access = Access(People(home, database), policy or Policy(), local=local)
    engine: Engine = (
        LocalEngine(patient, theatre.ledger)
        if not replicas
        else RemoteEngine(operated, theatre.ledger, replicas, home / "adapters", theatre.answers)
    )
    return Service(engine, theatre, access, trusted=Trusted(facts))
