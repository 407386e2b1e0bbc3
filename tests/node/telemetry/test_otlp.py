"""Spans reach a collector as OpenTelemetry's own library writes them, and one that is away costs nothing but spans."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.local import free_ports
from node.site import Site
from node.telemetry import otlp
from node.telemetry.spans import Span
from node.telemetry.traces import trace_id
from swarm.errors import UsageError
from tests.node.telemetry.builders import LEDGER, site, write_log

REASON = "OpenTelemetry is not installed: pip install 'swarm-node[telemetry]'"
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=REASON)

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402

pytestmark = pytest.mark.real


class Taken(BaseHTTPRequestHandler):
    """A collector: decodes what comes, and keeps it."""

    requests: ClassVar[list[tuple[str, ExportTraceServiceRequest]]] = []
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        if self.status == 200:
            self.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(self.status)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@pytest.fixture
def collector() -> Iterator[str]:
    Taken.requests.clear()
    Taken.status = 200
    with HTTPServer(("127.0.0.1", 0), Taken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def folder_of(parent: Path, index: int, rounds: int = 2) -> Path:
    """Return a site's folder as far as its spans need one."""
    folder = parent / f"site-{index}"
    made = Site(folder)
    made.create(name=f"site-{index}", listen="", advertise="", task="task.py", data="data")
    (made.keys / "node").write_text(site(index).hex())
    write_log(folder / "run" / "log.jsonl", index, rounds)
    return folder


def test_three_sites_that_know_nothing_of_each_other_tell_one_trace_a_round(tmp_path: Path, collector: str) -> None:
    for index in range(3):
        result = CliRunner().invoke(cli, ["trace", str(folder_of(tmp_path, index)), "--otlp", collector, "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["data"] == {"spans": 20, "lost": 0, "to": collector}
    assert {path for path, _ in Taken.requests} == {"/v1/traces"}
    told: dict[bytes, list[tuple[str, str]]] = {}
    ends: dict[tuple[str, str], tuple[int, int]] = {}
    parents: dict[str, set[bytes]] = {}
    for _, request in Taken.requests:
        for resource in request.resource_spans:
            about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            assert about["service.name"] == "swarm-node"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    told.setdefault(span.trace_id, []).append((about["swarm.site"], span.name))
                    ends[about["swarm.site"], span.name] = (span.start_time_unix_nano, span.end_time_unix_nano)
                    parents.setdefault(span.name, set()).add(span.parent_span_id)
    assert {*told} == {trace_id(LEDGER, 1), trace_id(LEDGER, 2)}
    assert all(
        {name for name, _ in rows} == {"site-0", "site-1", "site-2"} and len(rows) == 30 for rows in told.values()
    )
    assert parents["round"] == {b""}
    assert len(parents["train"]) == 6
    assert ends["site-2", "train"] == (1_100_000_000_000, 1_112_000_000_000), "the log's times, not those of sending"


def test_a_round_that_is_open_is_handed_on_with_the_rest(tmp_path: Path, collector: str) -> None:
    folder = folder_of(tmp_path, 0)
    log = folder / "run" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    [committed] = [number for number, line in enumerate(lines) if '"round_committed"' in line and '"round": 2' in line]
    log.write_text("".join(lines[:committed]))
    result = CliRunner().invoke(cli, ["trace", str(folder), "--otlp", collector])
    assert result.exit_code == 0, result.output
    spans = [
        span
        for _, request in Taken.requests
        for of_site in request.resource_spans
        for scope in of_site.scope_spans
        for span in scope.spans
    ]
    [look] = [span for span in spans if span.name == "open"]
    told = {one.key: one.value for one in look.attributes}
    assert told["swarm.phase"].string_value == "attest"
    assert (told["swarm.open"].bool_value, told["swarm.down"].bool_value) == (True, True), "no node answers there"
    assert "swarm.awaited" not in told, "and there is no ledger"
    assert look.trace_id == trace_id(LEDGER, 2)


def test_a_collector_that_refuses_ends_the_command_in_words_and_is_not_shown_a_trace(
    tmp_path: Path, collector: str
) -> None:
    Taken.status = 400
    result = CliRunner().invoke(cli, ["trace", str(folder_of(tmp_path, 0)), "--otlp", collector])
    assert result.exit_code == 1
    assert str(result.exception) == f"couldn't hand on 20 spans: the collector at {collector} takes none"


def test_nobody_there_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "TIMEOUT_S", 0.5)
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    result = CliRunner().invoke(cli, ["trace", str(folder_of(tmp_path, 0)), "--otlp", address])
    assert (result.exit_code, "takes none" in str(result.exception)) == (1, True)


class Moody:
    """An exporter that fails until it is let."""

    def __init__(self) -> None:
        self.well, self.names = False, list[str]()

    def export(self, spans: Sequence[object]) -> object:
        from opentelemetry.sdk.trace.export import SpanExportResult

        if not self.well:
            return SpanExportResult.FAILURE
        self.names += [str(getattr(span, "name", "")) for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def span(number: int) -> Span:
    return Span(bytes(15) + b"\1", number.to_bytes(8, "big"), b"", f"s{number}", 1.0, 2.0, {})


def test_spans_wait_in_order_for_a_collector_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "BATCH_MAX", 3)
    exporter = Moody()
    collector = otlp.Collector(exporter, {})
    collector.take([span(i) for i in range(1, 5)])
    assert not collector.deliver()
    collector.take([span(i) for i in range(5, 9)])
    exporter.well = True
    assert collector.deliver()
    assert exporter.names == [f"s{i}" for i in range(1, 9)]
    assert (collector.handed, collector.lost, collector.waiting) == (8, 0, 0)


def test_of_too_many_that_wait_the_oldest_are_lost_and_counted() -> None:
    exporter = Moody()
    collector = otlp.Collector(exporter, {})
    collector.take([span(1)] * (otlp.WAITING_MAX - 1))
    collector.take([span(2), span(3), span(4)])
    assert (collector.waiting, collector.lost) == (otlp.WAITING_MAX, 2)
    collector.close()
    assert collector.lost == otlp.WAITING_MAX + 2


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:4318", "couldn't use --otlp"),
        ("ftp://127.0.0.1/", "couldn't use --otlp"),
        ("http://", "couldn't use --otlp"),
        ("http://[::1", "couldn't use --otlp"),
        ("http://127.0.0.1:99999", "couldn't use --otlp"),
        ("http://127.0.0.1:4318/?token=1", "couldn't use --otlp"),
        ("http://collector.hospital:4318", "couldn't send spans to collector.hospital"),
    ],
)
def test_an_address_that_will_not_do_is_refused(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        otlp.over_http(url, anywhere=False)


def test_elsewhere_takes_tls_or_a_word() -> None:
    otlp.over_http("https://collector.hospital:4318", anywhere=False).shutdown()
    otlp.over_http("http://collector.hospital:4318/v1/traces", anywhere=True).shutdown()
