"""SHELL. Spans to a collector that speaks OTLP over HTTP: Jaeger, Tempo, the OpenTelemetry Collector, a vendor's.

The only file that imports OpenTelemetry, which is optional. Of it the exporter is used, its encoding and its retries;
not its tracer, which would draw ids by chance and take the time of day for the time that something happened.

What the exporter reads from the environment holds here too: OTEL_EXPORTER_OTLP_HEADERS for a collector that asks who
one is, OTEL_EXPORTER_OTLP_CERTIFICATE for one whose certificate an institution has made itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from node.telemetry.spans import Span
from swarm.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TIMEOUT_S = 10.0
"""Of one delivery, its retries included."""

BATCH_MAX = 512
"""Spans in one delivery: some 200 KB."""

WAITING_MAX = 20_000
"""Spans that wait for a collector that does not answer: some hundred rounds of a large swarm. Older ones are lost."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Exporter(Protocol):
    """What of OpenTelemetry's exporters is used."""

    def export(self, spans: Sequence[ReadableSpan]) -> object:
        """Deliver spans; its result has the name SUCCESS or FAILURE."""

    def shutdown(self) -> None:
        """Let go of connections."""


class Collector:
    """Hands one site's spans on, in order, and keeps what it could not hand on for the next time."""

    def __init__(self, exporter: Exporter, about: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._exporter = exporter
        self._resource = Resource(dict(about))
        self._scope = InstrumentationScope("swarm-node")
        self._waiting: deque[Span] = deque(maxlen=WAITING_MAX)
        self.handed, self.lost = 0, 0

    @property
    def waiting(self) -> int:
        """How many spans wait for the collector."""
        return len(self._waiting)

    def take(self, spans: Sequence[Span]) -> None:
        """Have spans handed on with the next delivery; the oldest are lost when too many wait."""
        self.lost += max(len(self._waiting) + len(spans) - WAITING_MAX, 0)
        self._waiting.extend(spans)

    def deliver(self) -> bool:
        """Hand on what waits. Return whether that worked; if not, it waits on."""
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(BATCH_MAX, len(self._waiting)))]
            if not self._export(batch):
                return False
            for _ in batch:
                self._waiting.popleft()
            self.handed += len(batch)
        return True

    def _export(self, batch: Sequence[Span]) -> bool:
        try:
            result = self._exporter.export([self._readable(span) for span in batch])
        except Exception:  # noqa: BLE001 - versions differ in what they raise when nobody is there
            return False
        return getattr(result, "name", "") == "SUCCESS"

    def close(self) -> None:
        """Give up what still waits."""
        self.lost += len(self._waiting)
        self._waiting.clear()
        self._exporter.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

        def context(own: bytes) -> SpanContext:
            trace, sampled = int.from_bytes(span.trace, "big"), TraceFlags(TraceFlags.SAMPLED)
            return SpanContext(trace, int.from_bytes(own, "big"), is_remote=False, trace_flags=sampled)

        return ReadableSpan(
            name=span.name,
            context=context(span.id),
            parent=context(span.parent) if span.parent else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=round(span.began_s * 1e9),
            end_time=round(span.ended_s * 1e9),
            instrumentation_scope=self._scope,
        )


def over_http(url: str, *, anywhere: bool) -> Exporter:
    """Return what delivers to a collector; `v1/traces` is added to a URL without a path, as OTLP has it.

    Raises:
        UsageError: no such URL, one without TLS to elsewhere unless `anywhere`, or the library is missing.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or port == 0:
        raise UsageError(f"couldn't use --otlp {url}", hint="write a collector's address, as http://127.0.0.1:4318")
    if parts.scheme == "http" and host not in LOOPBACK and not anywhere:
        raise UsageError(
            f"couldn't send spans to {host}: who was in which round would go there unencrypted",
            hint="use https://, a collector on this machine, or --anywhere where the network between is your own",
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise UsageError(
            "couldn't send spans: OpenTelemetry is not installed", hint="pip install 'swarm-node[telemetry]'"
        ) from None
    # What goes wrong is said here, in words and once, and not by its loggers with a trace for each try.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    endpoint = url.rstrip("/") + "/v1/traces" if parts.path in ("", "/") else url
    exporter: Exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)
    return exporter
