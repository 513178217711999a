"""What Prometheus is told: counts and seconds, never a word of anybody."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to: Any = {"registry": self.registry}
        self.requests = Counter("repair_requests", "Requests by route.", ["route", "status"], **to)
        self.operations = Counter("repair_operations", "Operations by outcome.", ["status"], **to)
        self.tokens = Counter("repair_tokens", "Tokens read and generated.", ["kind"], **to)
        self.answer_seconds = Histogram(
            "repair_answer_seconds", "Seconds of a whole answer.", buckets=_SECONDS, **to
        )
        self.operation_seconds = Histogram(
            "repair_operation_seconds", "Seconds of a whole operation.", buckets=_SECONDS, **to
        )
        self.active = Gauge("repair_active_edits", "Edits of everyone that are in force.", **to)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
