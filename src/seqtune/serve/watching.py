"""Figures for Prometheus, in a registry of its own: two servers in one process do not mix."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Watch:
    """What a server counts; labels take values of the server's own alone, so that their number is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        into = self.registry
        self.requests = Counter("seqtune_requests", "Responses.", ["route", "status"], registry=into)
        self.seconds = Histogram(
            "seqtune_request_seconds",
            "From the head to the end of the response.",
            ["route"],
            buckets=SECONDS,
            registry=into,
        )
        self.wait = Histogram("seqtune_wait_seconds", "From the queue to work.", buckets=SECONDS, registry=into)
        self.batch = Histogram(
            "seqtune_step_answers",
            "Answers that a step writes a token of.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=into,
        )
        self.waiting = Gauge("seqtune_waiting_requests", "Requests in the queue.", registry=into)
        self.running = Gauge("seqtune_running_requests", "Answers being written.", registry=into)
        self.answered = Counter("seqtune_answers", "Answers given.", ["model"], registry=into)
        self.tokens = Counter("seqtune_tokens", "Tokens read and written.", ["model", "side"], registry=into)
        self.left = Counter("seqtune_clients_left", "Clients that left before their answer.", registry=into)
        self.failures = Counter("seqtune_failures", "Times that answers could not be computed.", registry=into)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
