"""What happened, in Prometheus' form."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from sioconv.serve.service import Service

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """A server's counters."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("sioconv_requests", "Answers to requests.", ["path", "status"], registry=registry)
        self.gone = Counter("sioconv_disconnects", "Clients that left before their answer.", registry=registry)
        self.tokens = Counter(
            "sioconv_tokens", "Tokens: read, reused from a state, or written.", ["model", "kind"], registry=registry
        )
        self.first = Histogram(
            "sioconv_first_piece_seconds", "From a request's arrival to its first text.", ["model"],
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.seconds = Histogram(
            "sioconv_reply_seconds", "From a request's arrival to its end.", ["model"], registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self._running = Gauge("sioconv_running", "Replies being written.", ["model"], registry=registry)
        self._waiting = Gauge("sioconv_waiting", "Replies that wait.", ["model"], registry=registry)
        self._steps = Gauge("sioconv_engine_steps", "Steps of the engine.", ["model"], registry=registry)
        self._state = Gauge("sioconv_state_bytes", "Size of one text's state.", ["model"], registry=registry)
        self._kept = Gauge("sioconv_store_states", "States in memory.", registry=registry)
        self._bytes = Gauge("sioconv_store_bytes", "Bytes of states in memory.", registry=registry)

    def page(self, service: "Service") -> bytes:
        """All of them as text."""
        for name, served in service.models.items():
            self._running.labels(name).set(service.limits.running[name])
            self._waiting.labels(name).set(service.limits.waiting[name])
            self._steps.labels(name).set(served.runner.steps)
            self._state.labels(name).set(served.state_bytes)
        if service.store is not None:
            self._kept.set(len(service.store))
            self._bytes.set(service.store.bytes)
        return generate_latest(self._registry)
