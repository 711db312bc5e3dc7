"""OpenTelemetry's traces, at a real collector: a small HTTP server that takes OTLP."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sioconv.serve.telemetry.tracing import provider_from_environment
from tests.serve.conftest import serving

SECRET = "秘密の言葉"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for each in requests for one in each.resource_spans for part in one.scope_spans for span in part.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_and_its_phases_are_traced_without_text(
    served_folder: Path, collector: Collector, stream: bool
) -> None:
    messages = [{"role": "user", "content": SECRET}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 4, "min_tokens": 4, "stream": stream}
    parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    with serving(f"tiny={served_folder}") as running:
        url = f"{running.url}/v1/chat/completions"
        httpx.post(url, json=body, headers={"traceparent": parent}, timeout=60).raise_for_status()
        httpx.post(url, json=body | {"temperature": SECRET}, timeout=60)  # refused: its error quotes the value
        httpx.get(f"{running.url}/health", timeout=60)
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == parent.split("-")[1]}
    assert set(spans) == {"POST /v1/chat/completions", "queue", "prefill", "decode"}
    request = spans["POST /v1/chat/completions"]
    assert request.parent_span_id.hex() == parent.split("-")[2]
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(span.parent_span_id == request.span_id for span in phases)
    marks = [time for span in phases for time in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert marks == sorted(marks)
    counts = {each.key: each.value.int_value for each in phases[-1].attributes}
    assert counts["sioconv.tokens.written"] == 4
    assert counts["sioconv.tokens.read"] > 0
    assert len(collector.spans) == 5  # the refused request's too, and none of /health
    assert all(SECRET.encode() not in body for body in collector.bodies)


def test_a_reply_that_is_given_up_is_told(served_folder: Path, collector: Collector) -> None:
    with serving(f"tiny={served_folder}") as running:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "川"}], "max_tokens": 4000, "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
        assert running.idle()
    last = next(span for span in collector.spans if span.name in ("prefill", "decode") and span.status.code)
    told = {each.key: each.value.string_value for each in last.attributes}
    assert told["error.type"] == "cancelled"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is zipkin: only otlp can be used"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc: only http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "isn't an address of http:// or https://"),
        ("OTEL_TRACES_EXPORTER", "none", None),
        ("OTEL_SDK_DISABLED", "true", None),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", None),
    ],
)
def test_what_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, says: str | None
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert provider_from_environment() is None
    said = capsys.readouterr().err
    assert (says in said and said.count("\n") == 1) if says else not said


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert provider_from_environment() is None
    assert "pip install 'sioconv[trace]'" in capsys.readouterr().err
