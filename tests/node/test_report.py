"""The audit report: one file that stands alone, tells the truth about a bad ledger, and lets no name become markup."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser

import msgspec
import pytest
from msgspec.structs import replace

from node.core import Node
from node.report import Verdict, report
from node.report_tables import COLUMNS_MAX
from node.svg import STYLE, Line, plot, thin, ticks
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, Failure, RoundView, audit
from swarm.ledger.evidence import RULES, TWO_NOTARIZED
from swarm.ledger.state import Closed, Placed, genesis
from swarm.machine import RECORD_BLOCK
from tests.benchmarks.ledgers import make_ledger
from tests.builders import Swarm, contribution, digest, make_swarm
from tests.epochs import opened
from tests.simulation.campaign import caught

MADE_MS = 1_800_000_000_000
VALID = Verdict(valid=True)
HOSTILE = "</style><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202e\x00"


class Page(HTMLParser):
    """Every element of a page, and its visible text."""

    VOID = ("meta", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@functools.cache
def calm() -> tuple[SignedCharter, tuple[bytes, ...]]:
    signed, payloads, _ = make_ledger(members=4, rounds=3)
    return signed, tuple(payloads)


@functools.cache
def lying() -> tuple[SignedCharter, tuple[bytes, ...]]:
    """A ledger with site-3 on record, who ran twice at once."""
    place = caught().place(0)
    assert isinstance(place.machine, Node)
    assert place.journal is not None
    records = place.journal.open().records
    signed = place.machine.replica.head.signed
    return signed, tuple(record.payload for record in records if record.kind == RECORD_BLOCK)


def audited(signed: SignedCharter, payloads: tuple[bytes, ...]) -> Audit:
    *_, result = audit(payloads, signed)
    return result


def page(result: Audit, signed: SignedCharter, verdict: Verdict = VALID) -> Page:
    return Page(report(result, signed, verdict=verdict, made_ms=MADE_MS))


def told(swarm: Swarm, rounds: int, signed: SignedCharter | None = None) -> Audit:
    """Return an audit as of a long run: site 1 sends nothing in every 7th round, site 2 is left out in every 50th."""
    result = Audit(genesis(signed or swarm.signed), blocks=rounds, covered=rounds)
    members = range(len(swarm.identities))
    index = 1
    for number in range(1, rounds + 1):
        view = RoundView(number)
        missing = [i for i in members if i == 1 and number % 7 == 0]
        out = [i for i in members if i == 2 and number % 50 == 0]
        for i in members:
            if i not in missing:
                body = contribution(swarm, i, number=number, samples=100)
                view.contributions[swarm.identities[i].node] = Placed(index, swarm.identities[i].node, body)
                index += 1
        terms = [placed for i, who in enumerate(swarm.identities) if i not in (*missing, *out)
                 for placed in [view.contributions[who.node]]]  # fmt: skip
        rejected = tuple((view.contributions[swarm.identities[i].node].index, e.UNUSABLE) for i in out)
        absent = tuple(swarm.identities[i].node for i in missing)
        close = e.RoundClose(number, 1, tuple((placed.index, 100) for placed in terms), absent, rejected)
        view.closed = Closed(index, close, tuple(terms), exchange=False, epoch=0)
        model = digest(f"model {number}")
        view.commit = e.RoundCommit(
            number, index, model, 4, len(members), 100 * len(terms), absent, (), 0, 0
        )  # fmt: skip
        view.committed_ms, view.height = 1_700_000_000_000 + 60_000 * number, number
        index += 2
        metrics = range(len(swarm.charter.metrics))
        for i, who in enumerate(swarm.identities):
            values = tuple((m, 2_000_000 // number + 10_000 * (i % 9) + 1_000 * ((i * number) % 7)) for m in metrics)
            view.evaluations[who.node] = e.Evaluation(number, model, 10 + i, values)
        result.rounds[number] = view
    result.entries = result.state.size
    return result


def renamed(swarm: Swarm, **fields: object) -> SignedCharter:
    return SignedCharter(msgspec.structs.replace(swarm.charter, **fields), {})


# --- what it says -----------------------------------------------------------------------------------------------


def test_a_ledger_that_holds_is_called_valid_before_anything_else() -> None:
    signed, payloads = calm()
    text = page(audited(signed, payloads), signed).text
    assert "INVALID" not in text
    assert text.index("VALID") < text.index("What was checked") < text.rindex("The swarm and its terms")
    assert "Agreed on" in text
    assert "rounds finished 3 of 3" in text


def test_a_changed_ledger_is_called_invalid_with_the_place_and_what_to_do() -> None:
    signed, payloads = calm()
    bad = (*payloads[:4], payloads[4][:-9] + bytes([payloads[4][-9] ^ 1]) + payloads[4][-8:], *payloads[5:])
    result = audited(signed, bad)
    assert result.failure is not None
    assert result.failure.height == 5
    verdict = Verdict(valid=False, place="blocks at byte 77", problem=result.failure.text, advice="ask site-2 for it.")
    text = page(result, signed, verdict).text
    assert "INVALID Where: blocks at byte 77 What: " in text
    assert result.failure.text in text
    assert "What to do: ask site-2 for it." in text
    assert f"describes only the {result.entries} entries before that place" in text


def test_an_audit_that_failed_is_never_shown_as_valid() -> None:
    signed, payloads = calm()
    result = audited(signed, payloads)
    result.failure = Failure(9, "couldn't accept block 9: its tree is not the tree of its entries")
    text = page(result, signed, VALID).text
    assert "INVALID Where: block 9 What: couldn't accept block 9: its tree" in text


def test_a_block_that_fails_at_its_certificate_leaves_nothing_in_the_report() -> None:
    signed, payloads = lying()
    finals = [opened(payload) for payload in payloads]
    place = next(i for i, final in enumerate(finals) if i and final.block.leaves and final.certificate)
    whole = payloads[place]
    bad = (*payloads[:place], whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], *payloads[place + 1 :])
    result = audited(signed, bad)
    assert result.failure is not None
    assert "certificate" in result.failure.text
    assert result.state.size > result.entries, "its entries are in the state"
    shown = page(result, signed)
    assert (
        all(index < result.entries for index in result.state.accused.values())
        or "Broken rules on record None." in shown.text
    )
    assert f"Number of entries {result.entries} Root none" in shown.text
    assert f"rounds finished {max((n for n, v in result.rounds.items() if v.commit), default=0)} of 2" in shown.text


def test_proof_in_a_block_that_does_not_hold_accuses_nobody() -> None:
    signed, payloads = lying()
    result = audited(signed, payloads)
    result.failure, result.entries = Failure(1, "its certificate does not verify"), 1
    text = page(result, signed).text
    assert "broke a rule" not in text
    assert "broken rules on record 0 " in text


def test_an_end_without_certificate_is_valid_but_not_final() -> None:
    signed, payloads = calm()
    result = audited(signed, payloads)
    result.covered -= 2
    text = page(result, signed).text
    assert "VALID, but not final to the end" in text
    assert "The last 2 blocks are not yet signed as final by enough members" in text


def test_notes_of_whoever_read_the_files_are_shown() -> None:
    signed, payloads = calm()
    note = "the last 12 bytes on disk are not a whole record"
    assert note in page(audited(signed, payloads), signed, Verdict(valid=True, notes=(note,))).text


def test_quorum_and_fault_tolerance_are_told_in_words() -> None:
    signed, payloads = calm()
    text = page(audited(signed, payloads), signed).text
    assert "Something becomes final when at least 3 of 4 sign it (the quorum)." in text
    assert "goes on when 1 site is silent or out of reach, and the record stays right even if 1 site breaks" in text


def test_a_culprit_is_named_with_rule_and_entry_and_pointed_to_from_the_verdict() -> None:
    signed, payloads = lying()
    result = audited(signed, payloads)
    assert result.state.accused
    text = page(result, signed).text
    assert f"{len(result.state.accused)} broken rule" in text.split("What was checked")[0]
    for (_, rule), index in result.state.accused.items():
        assert re.search(rf"{rule}: {RULES[rule]} {index}\b", text)
    assert (
        "1 site broke a rule; a swarm of this size bears 1. This alone cannot have made a second history final." in text
    )


def test_more_culprits_than_the_swarm_bears_call_for_comparing_at_once() -> None:
    signed, payloads = lying()
    result = audited(signed, payloads)
    cards = signed.charter.members
    result.state = replace(
        result.state, accused={(card.node, TWO_NOTARIZED): 2 + i for i, card in enumerate(cards[:2])}
    )
    text = page(result, signed).text
    assert "2 sites broke a rule; a swarm of this size bears 1. Together they could have made a second history" in text
    assert "This alone cannot" not in text


def test_gaps_rejections_and_shares_are_told_by_round() -> None:
    swarm = make_swarm(4, rounds=50)
    text = page(told(swarm, 50), swarm.signed).text
    assert "site-1 7, 14, 21, 28, 35, 42, 49 sent nothing in time" in text
    assert "site-2 50 its update was unusable: not all of it numbers, or larger than the charter allows" in text
    assert (
        "49 2023-11-14 23:02:20 3 of 4 300 site-1: sent nothing in time site-0 33.3%, site-2 33.3%, site-3 33.3%"
        in text
    )
    assert "48 2023-11-14 23:01:20 4 of 4 400 nobody site-0 25.0%" in text
    assert "site-1 43 of 50 100 4,300" in text


def test_everything_short_of_everything_is_not_called_a_hundred_per_cent() -> None:
    swarm = make_swarm(50, rounds=7)
    result = told(swarm, 7)  # 349 of 350 are in: 99.71 %.
    assert "99.7 %" in page(result, swarm.signed).text


def test_scores_are_drawn_with_their_held_out_counts_and_first_to_last_values() -> None:
    swarm = make_swarm(4, rounds=4, metrics=("auc",))
    shown = page(told(swarm, 4), swarm.signed)
    # Site 3, round n: 2/n + 0.03 + 0.001 * (3 n mod 7) = 2.033, 1.036, 0.6987 (rounded down to millionths), 0.535.
    assert "site-3 13 4 2.0330 0.5350 2.0330 0.5350" in shown.text
    lines = [
        a["class"] for a in shown.all("path") if (a.get("class") or "").startswith("line s") and len(a["d"] or "") > 20
    ]
    assert {"line s0", "line s1", "line s2", "line s3"} <= {*lines}


def test_a_score_of_a_model_that_is_not_on_record_is_left_out_and_counted() -> None:
    swarm = make_swarm(4, rounds=2)
    result = told(swarm, 2)
    result.rounds[2].evaluations[swarm.identities[0].node] = e.Evaluation(2, digest("another"), 10, ((0, 99_000_000),))
    text = page(result, swarm.signed).text
    assert "1 score left out here" in text
    assert "99.0" not in text


def test_a_round_number_out_of_the_blue_makes_no_axis() -> None:
    swarm = make_swarm(4, rounds=2)
    result = told(swarm, 2)
    view = result.rounds[2**62] = RoundView(2**62)
    view.evaluations[swarm.identities[0].node] = e.Evaluation(2**62, digest("x"), 10, ((0, 2**62),))
    source = report(result, swarm.signed, verdict=VALID, made_ms=MADE_MS)
    assert len(source) < 200_000
    assert str(2**62) not in source


def test_a_date_beyond_every_calendar_is_no_failure() -> None:
    swarm = make_swarm(4, rounds=2)
    result = told(swarm, 2)
    result.rounds[1].committed_ms, result.rounds[2].committed_ms = 2**62, 2**62 + 1
    assert "no date of a calendar" in page(result, swarm.signed).text


def test_a_ledger_with_nothing_but_its_charter_has_a_report() -> None:
    swarm = make_swarm(1)
    text = page(Audit(genesis(swarm.signed)), swarm.signed).text
    assert "No round is on record yet." in text
    assert "rounds finished 0 of 3" in text
    assert "even one member broke the rules" in text


def test_an_open_round_is_shown_as_open() -> None:
    swarm = make_swarm(4, rounds=3)
    result = told(swarm, 2)
    view = result.rounds[3] = RoundView(3)
    view.contributions[swarm.identities[0].node] = Placed(
        99, swarm.identities[0].node, contribution(swarm, 0, number=3)
    )
    text = page(result, swarm.signed).text
    assert "3 still open 1 of 4 so far" in text
    assert "sent an update; the round is still open" in text


def test_models_are_listed_from_the_charters_on_with_who_stated_them() -> None:
    swarm = make_swarm(4, rounds=2)
    text = page(told(swarm, 2), swarm.signed).text

    def spoken(number: bytes) -> str:
        return " ".join(re.findall("....", number.hex()))

    assert f"2 {spoken(digest('model 2'))} 4 of 4 sites 2 " in text
    assert f"0 {spoken(swarm.charter.task.initial_model)} in the charter" in text
    assert f"Ledger {spoken(swarm.signed.ledger_id)} Number of entries 1 Root " in text


# --- how it says it ---------------------------------------------------------------------------------------------


def test_hostile_names_stay_text() -> None:
    swarm = make_swarm(4, rounds=2)
    cards = tuple(msgspec.structs.replace(card, name=f"{i}{HOSTILE}") for i, card in enumerate(swarm.charter.members))
    task = msgspec.structs.replace(swarm.charter.task, name=HOSTILE)
    signed = renamed(swarm, name=HOSTILE, members=cards, metrics=(HOSTILE,), task=task)
    result = told(swarm, 2, signed)
    result.failure = Failure(3, HOSTILE)
    shown = page(result, signed, Verdict(valid=False, place=HOSTILE, advice=HOSTILE, notes=(HOSTILE,)))
    assert not shown.all("script")
    assert not shown.all("img")
    assert len(shown.all("style")) == 1
    assert "<script>alert(1)</script>\"'&<img" in shown.text, "it is there, as text"
    assert "\u202e" not in shown.text
    assert "\x00" not in shown.text
    assert not [name for _, attributes in shown.elements for name in attributes if name.startswith("on")]


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    swarm = make_swarm(4, rounds=3, metrics=("auc", "loss"))
    source = report(told(swarm, 3), swarm.signed, verdict=VALID, made_ms=MADE_MS)
    shown = Page(source)
    assert not [
        tag for tag, _ in shown.elements if tag in ("script", "link", "iframe", "object", "img", "form", "base")
    ]
    links = [value for _, attributes in shown.elements for name, value in attributes.items() if name in ("href", "src")]
    assert links
    assert all(value is not None and value.startswith("#") for value in links)
    assert "url(" not in source
    assert "@import" not in source
    assert "://" not in source
    policy = next(a["content"] for a in shown.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_whoever_hears_the_page_gets_landmarks_heads_and_pictures_in_words() -> None:
    swarm = make_swarm(4, rounds=3)
    shown = page(told(swarm, 3), swarm.signed)
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(shown.all(landmark)) == 1
    assert all(head.get("scope") in ("col", "row") for head in shown.all("th"))
    assert len(shown.all("caption")) == len(shown.all("table")) > 5
    plots = [a for a in shown.all("svg") if a.get("class") in ("plot", "panel")]
    assert plots
    assert all(a.get("role") == "img" for a in plots)
    assert len(shown.all("desc")) == len(plots)
    ids = [str(attributes["id"]) for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    targets = {str(a["href"])[1:] for a in (*shown.all("a"), *shown.all("use"))}
    assert targets <= {*ids}


@pytest.mark.parametrize("rounds", [COLUMNS_MAX, COLUMNS_MAX + 1, 500])
def test_the_table_of_sites_and_rounds_never_has_more_columns_than_a_page_holds(rounds: int) -> None:
    swarm = make_swarm(4, rounds=500)
    source = report(told(swarm, rounds), swarm.signed, verdict=VALID, made_ms=MADE_MS)
    begin = source.index('<table class="matrix">')
    matrix = Page(source[begin : source.index("</table>", begin)] + "</table>")
    columns = [a for a in matrix.all("th") if a["scope"] == "col"]
    assert COLUMNS_MAX // 2 < len(columns) - 1 <= COLUMNS_MAX
    assert len(matrix.all("td")) == 4 * (len(columns) - 1)


def test_fifty_sites_and_five_hundred_rounds_make_a_page_a_phone_opens() -> None:
    swarm = make_swarm(50, rounds=500)
    source = report(told(swarm, 500), swarm.signed, verdict=VALID, made_ms=MADE_MS)
    shown = Page(source)
    assert len(source) < 4_000_000
    assert len([a for a in shown.all("svg") if a.get("class") == "panel"]) == 50
    assert "7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77, 84 and 59 later rounds" in shown.text
    assert "sent nothing in time: 1 of 13" in shown.text


def test_the_same_ledger_makes_the_same_bytes() -> None:
    signed, payloads = lying()
    first, second = (report(audited(signed, payloads), signed, verdict=VALID, made_ms=MADE_MS) for _ in range(2))
    assert first == second
    assert "Made 2027-01-15 08:00:00 UTC" in first


def test_every_colour_of_text_and_lines_stands_out_from_its_ground_by_light_and_by_dark() -> None:
    def luminance(colour: str) -> float:  # WCAG 2.2, relative luminance
        wide = colour if len(colour) == 6 else "".join(c + c for c in colour)
        parts = [int(wide[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(first: str, second: str) -> float:
        low, high = sorted((luminance(first), luminance(second)))
        return (high + 0.05) / (low + 0.05)

    light, dark = STYLE.split("prefers-color-scheme:dark", 1)
    for block in (light, dark[: dark.index("}}")]):
        colours = dict(re.findall(r"--([a-z0-9-]+):#([0-9a-f]{3,6})", block))
        named = ["ink", "dim", "link", "good", "bad", "unsure", *(f"s{i}" for i in range(8))]
        pairs = [(name, "ground") for name in named] + [("dim", "soft")]
        pairs += [(name, f"{name}-soft") for name in ("good", "bad", "unsure")]
        assert {
            pair: contrast(colours[pair[0]], colours[pair[1]])
            for pair in pairs
            if contrast(colours[pair[0]], colours[pair[1]]) < 4.5
        } == {}


def test_a_line_is_broken_where_a_round_is_missing_and_drawn_for_a_point_alone() -> None:
    line = Line("a", [(1, 0.0), (2, 1.0), (4, 1.0)])
    source = plot([line], title="t", desc="d", x_label="x", y_label="y")
    path = next(a["d"] for a in Page(source).all("path") if a.get("class") == "line s0")
    assert path is not None
    assert re.sub(r"[0-9. ]+", "", path) == "MhLMh"


def test_a_long_line_is_thinned_evenly_and_keeps_its_end() -> None:
    assert thin([(i, i) for i in range(10)], 4) == [(0, 0), (3, 3), (6, 6), (9, 9)]
    assert thin([(i, i) for i in range(4)], 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_axes_are_marked_at_round_numbers() -> None:
    assert ticks(0, 1, 5) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3, 497, 10) == [50, 100, 150, 200, 250, 300, 350, 400, 450]
    assert ticks(-0.011, 0.012, 4) == pytest.approx([-0.01, 0.0, 0.01])
