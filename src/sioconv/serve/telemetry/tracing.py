"""Traces of requests for OpenTelemetry, where the environment asks for them; no text is in them.

FastAPI makes a span of each request. Below it are `queue`, until a reply may be written; `prefill`, until its first
text; `decode`, until its end.
"""

import asyncio
import os
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi.telemetry import TelemetryConfig
from opentelemetry import context, trace
from opentelemetry.trace import Span, StatusCode, Tracer, TracerProvider

from sioconv.progress import say

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
UNTRACED = frozenset({"/health", "/ready", "/metrics"})  # what monitors ask for all the time


def provider_from_environment() -> Any | None:
    """What sends spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; None where there is nothing to send to.

    Other variables of OpenTelemetry (service name, headers, sampler) count too. Where it can't be used, that is said
    and nothing is traced: such variables are often set for a whole machine.
    """
    name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").lower()
    if name is None or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if (problem := _problem(name, exporter)) is not None:
        say(f"warning: {problem}: nothing is traced")
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SendingProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        say(f"warning: {name} is set, but OpenTelemetry isn't there (pip install 'sioconv[trace]'): nothing is traced")
        return None
    service = os.environ.get("OTEL_SERVICE_NAME") or "sioconv"
    provider = SendingProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _problem(name: str, exporter: str) -> str | None:
    """Why spans can't be sent."""
    if exporter != "otlp":
        return f"OTEL_TRACES_EXPORTER is {exporter}: only otlp can be used"
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(variable, "http/protobuf") != "http/protobuf":
            return f"{variable} is {os.environ[variable]}: only http/protobuf can be used"
    address = urlsplit(os.environ[name])
    if address.scheme not in ("http", "https") or not address.hostname:
        return f"{name} isn't an address of http:// or https://"
    return None


def telemetry_of(provider: TracerProvider | None) -> TelemetryConfig:
    """FastAPI's settings: a span of each request and nothing else, because its logs hold messages of errors."""

    def untraced(scope: MutableMapping[str, Any]) -> bool:
        return provider is None or scope.get("path") in UNTRACED

    return {
        "tracer_provider": provider, "metrics": False, "logs": False, "operation_spans": False,
        "auto_configure": False, "exclude": untraced,
    }  # fmt: skip


class Phases:
    """The spans of one reply's phases, each from the end of the one before; below the request's that runs now.

    Args:
        provider: makes the spans; None for none.
        model: what clients call the model.
    """

    def __init__(self, provider: TracerProvider | None, model: str) -> None:
        self._tracer: Tracer = trace.NoOpTracer() if provider is None else provider.get_tracer("sioconv.serve")
        self._context, self._model = context.get_current(), model
        self._span: Span | None = None

    def enter(self, name: str) -> None:
        """The phase before, if any, is over, and another begins."""
        self.end()
        attributes = {"gen_ai.request.model": self._model}
        self._span = self._tracer.start_span(name, self._context, attributes=attributes)

    def count(self, tokens: Mapping[str, int]) -> None:
        """Numbers of tokens, by kind, become attributes of the phase."""
        if self._span is not None:
            self._span.set_attributes({f"sioconv.tokens.{kind}": count for kind, count in tokens.items()})

    def end(self, error: BaseException | None = None) -> None:
        """The phase is over; of an error that has ended it the type is told, and not the message."""
        if self._span is None:
            return
        if error is not None:
            gone = isinstance(error, GeneratorExit | asyncio.CancelledError)
            self._span.set_attribute("error.type", "cancelled" if gone else type(error).__qualname__)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        self._span = None
