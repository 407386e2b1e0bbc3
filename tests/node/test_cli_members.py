"""`swarm members` and its family against a control socket: what is asked of the node, and one clear sentence for errors."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from node.admission import invitation_from_toml
from node.cli.main import cli
from node.cli.output import code_of
from node.site import Site
from swarm import charter as c
from swarm import codec
from swarm import terms as t
from swarm.errors import UsageError
from swarm.ledger.entry import ENTRY_BYTES_MAX
from tests.builders import digest, make_swarm
from tests.node.test_cli_errors import refused, swarm

TASK = "x = 1  # never imported here\n"
POLICY = make_swarm(3).charter.round
NODES = {"alpha": "", "beta": digest("beta").hex(), "gamma": digest("gamma").hex()}
MOTION = {
    "id": "ea17eadc" + 28 * "0f",
    "text": "delta joins",
    "by": "beta",
    "yes": ["beta"],
    "no": ["gamma"],
    "needed": 2,
    "invited": True,
    "expires_ms": 1_750_000_000_000,
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    made = Site(Path("alpha"))
    card = made.create(name="alpha", listen="", advertise="tcp://127.0.0.1:7400", task="task.py", data="data")
    (made.folder / "task.py").write_text(TASK)
    terms = msgspec.structs.replace(
        make_swarm(1).charter, members=(card,), task=c.Task("task", digest(TASK), digest("l"), 32, digest("i"), 7)
    )
    signed = c.SignedCharter(terms, {}).sign(made.load_identity())
    (made.folder / "charter.toml").write_text(c.to_toml(signed))
    return made


class Node:
    """What listens at a site's control socket: it remembers what it was asked."""

    def __init__(self, site: Site) -> None:
        self.asked: list[str] = []
        self.refusal = ""
        rows = [
            {"name": name, "node": node or site.node().hex(), "me": not node, "member": True, "endpoint": "tcp://h:1"}
            for name, node in NODES.items()
        ]
        rows.append({"name": "guest delta", "node": 64 * "0", "me": False, "member": False, "endpoint": ""})
        self.status: dict[str, object] = {
            "swarm": "story", "epoch": 2, "tolerance": "3 members: goes on", "members": rows, "motions": [MOTION],
            "quorum": 2, "policy": {k: getattr(POLICY, k) for k in POLICY.__struct_fields__},
        }  # fmt: skip

    def answer(self, question: str) -> dict[str, object]:
        self.asked.append(question)
        if question == "status":
            return self.status
        return {"error": self.refusal} if self.refusal else {"said": "it"}

    @property
    def change(self) -> t.Change:
        word, change, ticket, _ = self.asked[-1].split()
        assert (word, ticket) == ("propose", "-")
        return codec.decode(bytes.fromhex(change), t.Change, limit=ENTRY_BYTES_MAX)


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    site.run.mkdir()
    made, server = Node(site), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(site.control))
    server.listen()

    def serve() -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            with link:
                data = b""
                while not data.endswith(b"\n"):
                    data += link.recv(1 << 16)
                link.sendall(json.dumps(made.answer(json.loads(data)["question"])).encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield made
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def said(*words: object) -> str:
    result = swarm(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


# --- what is asked ------------------------------------------------------------------------------------------------


def test_members_lists_who_is_in_and_what_can_be_voted_on(site: Site, node: Node) -> None:
    text = said("members", "alpha")
    assert text.splitlines()[0] == "story   epoch 2, 3 members: goes on"
    assert "this site" in text.splitlines()[1]
    assert "guest" not in text
    assert "ea17eadc  delta joins, proposed by beta, open until 2025-06-15" in text
    assert "yes: beta (of 2 needed)" in text
    assert "no:  gamma" in text
    assert "swarm vote ea17eadc yes|no --folder alpha" in text
    data = json.loads(said("members", "alpha", "--json"))["data"]
    assert set(data) == {"epoch", "members", "proposals", "quorum"}


def test_members_are_listed_in_every_form(site: Site, node: Node) -> None:
    whole = said("members", "alpha", "--format", "json")
    assert said("members", "alpha", "--json") == whole
    assert said("members", "alpha", "--format", "table") == said("members", "alpha")
    lines = swarm("members", "alpha", "--format", "jsonl")
    rows = [json.loads(line)["data"] for line in lines.stdout.splitlines()]
    assert rows == json.loads(whole)["data"]["members"]
    assert [row["name"] for row in rows] == list(NODES)
    assert "ea17eadc  delta joins" in lines.stderr, "what is proposed concerns who reads lines too"
    refusal = swarm("members", "alpha", "--format", "raw")
    assert (refusal.exit_code, "couldn't print swarm members as raw" in refusal.stderr) == (2, True)
    assert "--json" not in said("members", "--help")


def test_a_vote_goes_to_the_node(site: Site, node: Node) -> None:
    assert said("vote", "ea17", "no", "--folder", "alpha") == "said no to ea17\n"
    assert node.asked == ["vote ea17 no"]


def test_leaving_and_removing_are_the_same_change_of_another_member(site: Site, node: Node) -> None:
    said("leave", "alpha", "--days", "3")
    assert node.asked[-1].endswith(" - 3")
    assert node.change == t.remove(site.node())
    said("remove", "gamma", "--folder", "alpha")
    assert node.change.node.hex() == NODES["gamma"]


def test_a_rotation_proposes_keys_that_wait_in_the_folder(site: Site, node: Node) -> None:
    said("rotate", "alpha", "--identity", "--advertise", "tcp://new:7")
    (card,) = node.change.card
    fresh = site.load_successor()
    assert fresh is not None
    assert (card.id_key, card.curve_key, card.endpoint) == (fresh.id_key.public, fresh.curve_public, "tcp://new:7")
    assert (node.change.kind, node.change.node) == (t.ROTATE, site.node())


def test_a_policy_keeps_what_is_not_named(site: Site, node: Node) -> None:
    said("policy", "rounds=60", "patience_ms=9000", "--folder", "alpha")
    assert node.change == t.repolicy(msgspec.structs.replace(POLICY, rounds=60, patience_ms=9000))


def test_who_proposes_more_rounds_is_told_that_noise_on_sums_pays_no_more_of_them(site: Site, node: Node) -> None:
    node.status["site_noise"] = "epsilon 3 of 3 spent"
    text = said("policy", "rounds=60", "--folder", "alpha")
    assert "no vote makes the noise on sums pay more of them: epsilon 3 of 3 spent" in text
    assert "noise" not in said("policy", "patience_ms=9000", "--folder", "alpha")


def test_an_invitation_is_written_kept_and_told_to_the_node(site: Site, node: Node) -> None:
    text = said("invite", "delta", "--folder", "alpha", "--days", "2")
    found = invitation_from_toml(Path("delta.invite").read_text())
    assert (found.invite.name, found.inviter.name, found.inviter.endpoint) == ("delta", "alpha", "tcp://h:1")
    assert node.asked[-1] == f"invite {found.invite.encode().hex()}"
    assert site.load_invites(0.0) == (found.invite,)
    assert "for 2 days" in text
    assert Path("delta.invite").stat().st_mode & 0o077 == 0, "whoever reads it can ask in delta's place"


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("members", "alpha"),
        ("vote", "ea17", "yes", "--folder", "alpha"),
        ("leave", "alpha"),
        ("remove", "beta", "--folder", "alpha"),
        ("rotate", "alpha"),
        ("policy", "rounds=4", "--folder", "alpha"),
        ("invite", "delta", "--folder", "alpha"),
    ],
)
def test_without_a_node_nothing_happens(site: Site, words: tuple[str, ...]) -> None:
    message, hint = refused(*words, code=8)
    assert message == "no node answers in alpha"
    assert "swarm start" in hint
    assert site.load_successor() is None
    assert not Path("delta.invite").exists()
    assert site.load_invites(0.0) == ()


@pytest.mark.parametrize(
    ("words", "told", "advice"),
    [
        (
            ("remove", "nobody", "--folder", "alpha"),
            "couldn't propose to remove 'nobody': it is not",
            "alpha, beta, gamma",
        ),
        (("remove", "guest delta", "--folder", "alpha"), "it is not a member", "the members are alpha, beta, gamma"),
        (("policy", "rounds", "--folder", "alpha"), "couldn't propose 'rounds': that is no number", "KEY=NUMBER"),
        (("policy", "rounds=x", "--folder", "alpha"), "couldn't propose 'rounds=x'", "keys are rounds, "),
        (("policy", "mixing=1", "--folder", "alpha"), "couldn't propose 'mixing=1'", "keys are rounds, "),
        (("policy", "rounds=0", "--folder", "alpha"), "couldn't propose rounds=0: rounds = 0", "in range"),
        (("policy", "min_contributions=4", "--folder", "alpha"), "couldn't propose min_contributions=4: ", "in range"),
        (("rotate", "alpha", "--advertise", "junk"), "'junk' is no address", "tcp://host:port"),
        (("vote", "ea17", "maybe", "--folder", "alpha"), "'maybe' is not one of 'yes', 'no'", "swarm vote --help"),
        (("leave", "alpha", "--days", "91"), "91 is not in the range", "swarm leave --help"),
        (("invite", "bad name", "--folder", "alpha"), "couldn't accept 'bad name' as the name", "use letters"),
        (("invite", "delta", "--folder", "alpha", "-o", "."), "it is a folder", "name a file"),
        (("invite", "delta", "--folder", "nowhere"), "couldn't find nowhere/swarm.toml", "swarm init"),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_made(
    site: Site, node: Node, words: tuple[str, ...], told: str, advice: str
) -> None:
    message, hint = refused(*words)
    assert told in message
    assert advice in hint
    assert set(node.asked) <= {"status"}
    assert site.load_successor() is None
    assert site.load_invites(0.0) == ()


@pytest.mark.parametrize(
    ("options", "fewest", "why"),
    [
        ({"salt": "32"}, 1, "with a salt a round may close with 1 contribution, and the model that it ends with"),
        ({"masks": "pairwise"}, 2, "with masks a round may close with 2 contributions"),
        ({"rule": "trimmed:1"}, 2, "the rule trimmed:1 takes 3"),
    ],
)
def test_a_policy_that_the_charters_options_rule_out_is_not_proposed(
    site: Site, node: Node, options: dict[str, str], fewest: int, why: str
) -> None:
    cards = tuple(
        c.make_card(who, name=f"s{i}", endpoint=f"tcp://h:{i + 1}") for i, who in enumerate(make_swarm(3).identities)
    )
    policy = msgspec.structs.replace(POLICY, min_contributions=3)
    terms = msgspec.structs.replace(
        site.load_charter().charter, members=cards, edges=(), round=policy, options=c.options_of(**options)
    )
    signed = c.SignedCharter(terms, {})
    for who in make_swarm(3).identities:
        signed = signed.sign(who)
    (site.folder / "charter.toml").write_text(c.to_toml(signed))
    message, hint = refused("policy", f"min_contributions={fewest}", "--folder", "alpha")
    assert message.startswith(f"couldn't propose min_contributions={fewest}: ")
    assert why in message
    assert "what the charter says of updates" in hint
    assert {*node.asked} == {"status"}
    said("policy", "min_contributions=3", "--folder", "alpha")
    assert node.change.kind == t.POLICY


@pytest.mark.parametrize(
    "words",
    [
        ("vote", "ea17", "yes", "--folder", "alpha"),
        ("leave", "alpha"),
        ("remove", "beta", "--folder", "alpha"),
        ("policy", "rounds=4", "--folder", "alpha"),
    ],
)
def test_a_refusal_of_the_node_is_told_in_its_words(site: Site, node: Node, words: tuple[str, ...]) -> None:
    node.refusal = "couldn't propose that: it has been proposed already"
    message, hint = refused(*words)
    assert message == node.refusal
    assert "swarm members" in hint


def only_dials(node: Node) -> None:
    node.status["members"][0]["endpoint"] = ""  # type: ignore[index]


def no_member(node: Node) -> None:
    node.status["members"][0]["member"] = False  # type: ignore[index]


@pytest.mark.parametrize(
    ("why", "told"),
    [(only_dials, "it only dials out, so a guest could not reach it"), (no_member, "it is not a member")],
)
def test_only_a_member_that_can_be_reached_invites(
    site: Site, node: Node, why: Callable[[Node], None], told: str
) -> None:
    why(node)
    message, hint = refused("invite", "delta", "--folder", "alpha")
    assert message == f"couldn't invite anybody to this site: {told}"
    assert "let a member invite" in hint
    assert not Path("delta.invite").exists()


def test_keys_that_wait_and_files_that_exist_are_not_replaced(site: Site, node: Node) -> None:
    said("rotate", "alpha")
    message, hint = refused("rotate", "alpha")
    assert "has some that the members have not agreed to yet" in message
    assert "delete that folder" in hint
    Path("delta.invite").write_text("mine")
    message, _ = refused("invite", "delta", "--folder", "alpha")
    assert message == "couldn't write delta.invite: it exists"
    assert Path("delta.invite").read_text() == "mine"


# --- joining ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ticket(site: Site, node: Node) -> Path:
    said("invite", "delta", "--folder", "alpha")
    return Path("delta.invite")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda p: p.write_text("junk"), "couldn't read the invitation: it is not a whole invitation file"),
        (lambda p: p.write_bytes(b"\xff\xfe"), "couldn't read delta.invite: it is not text"),
        (lambda p: p.write_text(p.read_text().replace('guest = "', 'guest = "00')), "its parts do not belong together"),
        (lambda p: p.unlink(), "File 'delta.invite' does not exist"),
    ],
)
def test_a_damaged_invitation_makes_no_site(ticket: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(ticket)
    message, _ = refused("join", ticket, "delta")
    assert told in message
    assert not Path("delta").exists()


def test_without_the_right_task_file_there_is_no_site_either(ticket: Path) -> None:
    message, _ = refused("join", ticket, "delta")
    assert message == "couldn't find the task file delta/task.py"
    Path("delta").mkdir()
    Path("delta/task.py").write_text("x = 2\n")
    error = CliRunner().invoke(cli, ["join", str(ticket), "delta"]).exception
    assert isinstance(error, UsageError)
    assert "delta/task.py is not the task file the charter was made with" in error.message
    assert digest(TASK).hex()[:16] in error.hint
    assert (error.identifier, code_of(error)) == ("SWARM-TASK-FILE", 6), "as `start` and `charter sign` say it"
    assert not Path("delta/keys").exists()
    message, _ = refused("join", ticket, "delta", "--advertise", "junk")
    assert "'junk' is no address" in message


@pytest.mark.real
def test_when_nobody_has_decided_in_time_the_same_site_can_ask_again(ticket: Path) -> None:
    Path("delta").mkdir()
    Path("delta/task.py").write_text(TASK)
    nodes = []
    for _ in range(2):
        result = swarm("join", ticket, "delta", "--wait", "0")
        assert result.exit_code == 1
        told = "error: delta is not a member of test-swarm: nobody has decided yet\nhint: run the same command again\n"
        assert result.stderr.endswith(told)
        assert "delta asks alpha to join test-swarm   fingerprint " in result.stderr
        nodes.append(Site(Path("delta")).node())
    assert nodes[0] == nodes[1], "the same site asks again"


# --- withdraw -----------------------------------------------------------------------------------------------------


def test_withdraw_says_nothing_without_yes_and_then_what_was_shown(
    site: Site, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.benchmarks.ledgers import make_ledger
    from tests.node.test_cli_ledger import written

    signed, payloads, _ = make_ledger(members=3, rounds=3)
    written(tmp_path / "beta", payloads, signed=signed)
    monkeypatch.setattr(Site, "node", lambda _: signed.charter.members[1].node)
    Site(Path("beta")).run.mkdir()
    Site(Path("beta")).control.symlink_to(site.control.resolve())
    shown = said("withdraw", "beta", "--rounds", "2-3")
    assert "The models of rounds 2 to 3 hold it.\nThe last without is the model of round 1" in shown
    assert "Nothing was said yet: add --yes to say it" in shown
    assert node.asked == []
    assert "Said on record: this site takes back its work of round 3." in said(
        "withdraw", "beta", "--rounds", "3", "--yes"
    )
    assert node.asked == ["withdraw 3 3"]
    assert json.loads(said("withdraw", "beta", "--json"))["data"] == {
        "first": 1, "last": 3, "said": False, "models": [1, 2, 3], "clean": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        ("7-9", "of rounds 7 to 9: what there is so far is rounds 1 to 3"),
        ("1-4", "of rounds 1 to 4: what there is so far is rounds 1 to 3"),
        ("3-2", "of rounds 3 to 2: what there is so far is rounds 1 to 3"),
        ("0", "of round 0: what there is so far is rounds 1 to 3"),
        ("x", "'x' are no rounds"),
    ],
)
def test_withdraw_wants_rounds_in_which_there_is_work(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: str, words: str
) -> None:
    from tests.benchmarks.ledgers import make_ledger
    from tests.node.test_cli_ledger import written

    signed, payloads, _ = make_ledger(members=3, rounds=3)
    written(tmp_path / "beta", payloads, signed=signed)
    monkeypatch.setattr(Site, "node", lambda _: signed.charter.members[1].node)
    message, _ = refused("withdraw", "beta", "--rounds", rounds)
    assert words in message


def test_withdraw_speaks_of_the_open_round_before_any_is_committed_and_in_gossip_of_those_there_were(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.exchanges import calm
    from tests.node.test_cli_ledger import written

    run = calm("ring", rounds=3)
    monkeypatch.setattr(Site, "node", lambda _: run.signed.charter.members[1].node)
    written(tmp_path / "early", run.payloads[:1], signed=run.signed)
    assert said("withdraw", "early").splitlines() == [
        "No committed model holds that work.",
        "Nothing was said yet: add --yes to say it: this site takes back its work of round 1.",
    ]
    written(tmp_path / "late", run.payloads, signed=run.signed)
    shown = said("withdraw", "late")
    assert "this site takes back its work of rounds 1 to 3." in shown
    assert "In gossip each site has its own; all of them do from round" in shown
