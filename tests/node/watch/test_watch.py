"""What a site says of itself to monitoring is what its ledger and its node say, and nothing is asked for in vain."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from node.cli.main import cli
from node.watch.alerts import MISSED_ROUNDS, alerts
from node.watch.look import Look, Watch
from node.watch.server import application, registry_of, server, unready
from swarm.ledger.audit import audit, member_names, weights
from swarm.ledger.entry import UNUSABLE
from tests.node.test_cli_ledger import calm, data, said, written
from tests.simulation.test_site_noise import ledger as noised_ledger

ROOT = Path(__file__).parents[3]
NAMES = ("site-0", "site-1", "site-2")


def status(**changed: object) -> dict[str, object]:
    """Return what a node says that is well."""
    members: list[dict[str, object]] = [
        {"name": name, "member": True, "me": not i, "linked": True, "round": 2, "moved_s": 0.5, "clock_offset_ms": 0}
        for i, name in enumerate(NAMES)
    ]
    told: dict[str, object] = {"software": "swarm-node/0.1", "protocol": "1.1", "round": 2, "phase": "training"}
    return told | {"quorum": 3, "eta_s": 60.0, "members": members} | changed


def look(told: Mapping[str, object] | None = None, blocks: int | None = None) -> Look:
    """Return a look at three sites that learned two rounds, or at what their ledger was after so many blocks."""
    signed, payloads = calm()
    *_, result = audit(payloads[:blocks], signed)
    silence = "" if told is not None else "no node answers"
    return Look(
        at_s=1e9,
        name=NAMES[0],
        status=told,
        silence=silence,
        audit=result,
        trouble="",
        disk_free=1 << 40,
        ledger_size=12_345,
    )


def unfinished() -> Look:
    """Return the look at the last moment before the run was done."""
    for blocks in range(len(calm()[1]), 0, -1):
        found = look(status(), blocks)
        if not found.audit.state.complete:
            return found
    pytest.fail("a run begins unfinished")


def about(found: Look, **changed: object) -> dict[str, str]:
    """Return the texts of all alerts by name."""
    return {one.name: one.text for one in alerts(dataclasses.replace(found, **changed))}  # type: ignore[arg-type]


def samples(found: Look) -> dict[tuple[str, str], float]:
    """Return the numbers of a look as a monitoring system reads them, by name and labels."""
    families = text_string_to_metric_families(generate_latest(registry_of(lambda: found)).decode())
    return {(s.name, ",".join(s.labels.values())): s.value for family in families for s in family.samples}


def test_a_site_that_is_well_has_nothing_to_look_at() -> None:
    assert alerts(unfinished()) == []
    assert unready(unfinished()) == []


def test_a_node_that_is_gone_is_an_error_until_the_run_is_done() -> None:
    gone = dataclasses.replace(unfinished(), status=None, silence="no node answers in /srv/site")
    assert about(gone) == {"down": "this site's node does not run: no node answers in /srv/site"}
    assert about(look(None)) == {}, "after the run nobody needs it"


def test_what_a_node_says_of_itself_is_told_with_what_to_do() -> None:
    told = status(halted="a fork is proved", paused="2 of 3 sites are away", resting="it was paused by its people")
    found = alerts(dataclasses.replace(unfinished(), status=told))
    assert [(one.level, one.name) for one in found] == [
        ("error", "halted"),
        ("warning", "paused"),
        ("warning", "resting"),
    ]
    assert all(one.hint for one in found)


def test_sites_that_are_away_refuse_or_have_another_time_are_named() -> None:
    told = status()
    members = told["members"]
    assert isinstance(members, list)
    members[1] |= {"absent": True, "linked": False, "trouble": "nothing answers at its address"}
    members[2] |= {"clock_offset_ms": -7000}
    texts = about(unfinished(), status=told)
    assert texts["absent"] == "site-1 is away: nothing answers at its address"
    assert texts["clock"] == "the clock of site-2 is 7 s behind this site's"
    assert unready(dataclasses.replace(unfinished(), status=told)) == [
        "it is linked to 1 members, and a quorum is 3 with itself"
    ]
    members[2] |= {"refused": "it has another task file"}
    assert about(unfinished(), status=told)["refused_link"] == "no link to site-2: it has another task file"


def test_a_site_is_missed_when_its_work_is_in_none_of_the_last_rounds() -> None:
    found = unfinished()
    [first] = [view for view in found.audit.rounds.values() if view.closed is not None][:1]
    gone = found.audit.state.terms.members[1].node
    assert first.closed is not None
    terms = tuple(placed for placed in first.closed.terms if placed.author != gone)
    included = tuple(one for one in first.closed.body.included if one[0] in {placed.index for placed in terms})
    close = msgspec.structs.replace(first.closed.body, included=included, missing=(gone,))
    closed = msgspec.structs.replace(first.closed, terms=terms, body=close)
    for count in (MISSED_ROUNDS - 1, MISSED_ROUNDS):
        found.audit.rounds = {n: dataclasses.replace(first, number=n, closed=closed) for n in range(1, count + 1)}
        assert ("missing" in about(found)) == (count == MISSED_ROUNDS)
    assert about(found)["missing"] == "no work of site-1 is in rounds 1 to 3"


def test_an_update_that_was_left_out_is_named_with_its_reason() -> None:
    found = unfinished()
    number, view = next((n, v) for n, v in found.audit.rounds.items() if v.closed is not None)
    assert view.closed is not None
    index = view.closed.terms[2].index
    close = msgspec.structs.replace(view.closed.body, rejected=((index, UNUSABLE),))
    found.audit.rounds = {number: dataclasses.replace(view, closed=msgspec.structs.replace(view.closed, body=close))}
    assert about(found)["rejected"] == f"the update of site-2 was left out of round {number}: unusable"


def test_disk_and_budget_are_told_before_they_are_used_up() -> None:
    assert about(unfinished(), disk_free=5 << 20) == {"disk": "5 MiB are free on the disk of this site's folder"}
    assert about(unfinished(), epsilon=2.6, budget=3.0) == {}
    assert about(unfinished(), epsilon=2.8, budget=3.0) == {
        "privacy": "epsilon 2.800 of the privacy budget of 3 is spent"
    }


def test_a_ledger_that_does_not_hold_comes_first() -> None:
    found = alerts(dataclasses.replace(unfinished(), trouble="block 3 is damaged", disk_free=0))
    assert [one.name for one in found] == ["ledger", "disk"]


def test_the_numbers_are_those_of_the_ledger() -> None:
    found = look(status())
    told, result = samples(found), found.audit
    assert told["swarm_ledger_entries", ""] == result.entries
    assert told["swarm_ledger_blocks", ""] == result.blocks == len(calm()[1])
    assert told["swarm_rounds_committed", ""] == 2 == told["swarm_rounds_planned", ""]
    assert told["swarm_run_complete", ""] == 1
    assert told["swarm_round_samples", ""] == 300
    last, names = result.rounds[2], member_names(result.epochs)
    for node, share in weights(last).items():
        assert told["swarm_round_weight_ratio", names[node]] == pytest.approx(share)
        assert told["swarm_score", f"loss,{names[node]}"] == dict(last.evaluations[node].metrics)[0] / 1e6
    assert told["swarm_phase", "training"] == 1
    assert sum(value for (name, _), value in told.items() if name == "swarm_phase") == 1
    assert told["swarm_link_up", "site-1"] == 1
    assert ("swarm_link_up", "site-0") not in told, "a site has no link to itself"


def test_without_a_node_the_ledgers_numbers_are_there() -> None:
    with_node, without = samples(look(status())), samples(look(None))
    assert without["swarm_node_up", ""] == 0
    assert ("swarm_phase", "training") not in without
    same = {place for place in without if place[0] != "swarm_node_up"}
    assert {place: with_node[place] for place in same} == {place: without[place] for place in same}


def every() -> set[str]:
    """Return the names of all families there can be."""
    told = status(eta_s=1.0)
    found = dataclasses.replace(look(told), epsilon=1.0, budget=3.0, trouble="damaged")
    source = (ROOT / "node" / "watch" / "metrics.py").read_text(encoding="utf-8")
    gauges = {f"swarm_{name}" for name in re.findall(r'_gauge\(\s*"(\w+)"', source)}
    return {name for name, _ in samples(found)} | gauges | {"swarm_updates_rejected_total"}


def test_dashboards_and_rules_name_nothing_that_is_not_there() -> None:
    for path in ((ROOT / "deploy" / "prometheus" / "alerts.yml"), (ROOT / "deploy" / "grafana" / "swarm.json")):
        text = path.read_text(encoding="utf-8")
        named = {*re.findall(r"\bswarm_\w+", text)}
        assert len(named) > 10
        assert named <= every(), named - every()
    panels = json.loads((ROOT / "deploy" / "grafana" / "swarm.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


UNITS = {
    "seconds": ("s",),
    "bytes": ("bytes",),
    "second": ("Bps",),
    "ratio": ("percentunit",),
    "total": ("Bps", "short"),
}
"""By how a family's name ends, what a panel may say that it is in."""


def test_each_panel_is_in_the_unit_of_its_numbers_and_lies_on_no_other() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads((ROOT / "deploy" / "grafana" / "swarm.json").read_text())["panels"]
    for panel in panels:
        place, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), f"{panel['title']} is wider than Grafana's grid"
        taken |= cells
        for target in panel["targets"]:
            [family] = re.findall(r"\bswarm_\w+", target["expr"])
            assert unit in UNITS.get(family.rpartition("_")[2], ("short",)), family
            assert 'instance=~"$site"' in target["expr"], "whoever chooses a site sees that site"


def test_every_number_of_a_link_has_a_panel() -> None:
    text = (ROOT / "deploy" / "grafana" / "swarm.json").read_text(encoding="utf-8")
    of_links = {name for name in every() if name.startswith("swarm_link_")}
    assert "swarm_link_round_trip_seconds" in of_links
    # What rate a link brings blobs at is asked of Prometheus, from their bytes.
    assert {name for name in of_links if name not in text} == {"swarm_link_rate_bytes_per_second"}


def test_every_family_is_in_the_reference_and_no_other() -> None:
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = {*re.findall(r"^\| `(swarm_\w+)", text, re.MULTILINE)}
    assert rows == every()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[str]:
    """The address at which a finished site without a node is served."""
    watch = Watch(written(tmp_path / "site", calm()[1]))
    with server(watch, "127.0.0.1", 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()
    watch.close()


def answer(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.real
def test_the_site_is_served_to_whoever_watches_services(serving: str) -> None:
    code, text = answer(f"{serving}/metrics")
    assert code == 200
    assert f"swarm_ledger_blocks {len(calm()[1])}.0" in text.decode()
    assert answer(f"{serving}/healthz") == (503, b'{"node": false}')
    assert answer(f"{serving}/readyz")[0] == 200, "the run is done: nothing is expected of it"
    assert answer(f"{serving}/elsewhere")[0] == 404


def test_nothing_can_be_written() -> None:
    begun: list[str] = []
    page = application(lambda: look(status()))
    said = page({"PATH_INFO": "/metrics", "REQUEST_METHOD": "POST"}, lambda code, _: begun.append(code))  # type: ignore[arg-type,misc,func-returns-value]
    assert (begun, list(said)) == (["405 Method Not Allowed"], [b"only to be read\n"])


def test_another_address_than_loopback_is_refused_unless_asked_for(tmp_path: Path) -> None:
    site = written(tmp_path / "site", calm()[1])
    for text, words in (("0.0.0.0:9464", "unencrypted"), ("9464", "couldn't use"), ("127.0.0.1:x", "couldn't use")):
        result = CliRunner().invoke(cli, ["metrics", str(site), "--listen", text])
        assert words in str(result.exception)


def test_a_ledger_that_was_mended_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.watch.look.AGAIN_S", 0.0)
    site = written(tmp_path / "site", calm()[1])
    [segment] = (site / "ledger" / "blocks").glob("*.seg")
    whole = segment.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole.rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(damaged)
    watch = Watch(site)
    assert "the disk is damaged" in watch.look().trouble
    segment.write_bytes(whole)
    mended = watch.look()
    assert (mended.trouble, mended.audit.blocks) == ("", len(calm()[1]))
    watch.close()


def test_the_command_prints_what_is_served_and_the_alerts_in_words(tmp_path: Path) -> None:
    site = written(tmp_path / "site", calm()[1])
    text = said("metrics", site)
    assert f"\nswarm_ledger_blocks {len(calm()[1])}.0\n" in text
    told = data("metrics", site)
    assert {"name": "swarm_ledger_blocks", "labels": {}, "value": len(calm()[1])} in told["samples"]  # type: ignore[operator]
    assert (told["alerts"], told["ready"], told["why"]) == ([], True, [])


def test_what_noisy_sums_have_spent_is_told_where_there_is_a_budget_for_them() -> None:
    signed, payloads = noised_ledger()
    *_, result = audit(payloads, signed, trusting=True)
    told = samples(dataclasses.replace(look(), audit=result))
    noise = signed.charter.site_noise
    assert noise is not None
    assert told["swarm_site_epsilon_spent", ""] == noise.epsilon(result.state.sums) > 0
    assert told["swarm_site_epsilon_budget", ""] == noise.budget.epsilon
    assert not any(name.startswith("swarm_site_epsilon") for name, _ in samples(look()))
