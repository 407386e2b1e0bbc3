"""`swarm members`, `invite`, `join`, `vote`, `leave`, `remove`, `rotate`, `policy`: who is in the swarm, by vote.

Everything but `join` asks this site's running peer to say something to the others; what came of it is in the ledger.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gossip.messages import KnockAnswer
from gossip.zeromq import Incident, PeerAddress, Transport
from node.admission import ASK_AGAIN, Invitation, contact_to_toml, invitation_from_toml, invitation_to_toml, knock
from node.cli.control import ask
from node.cli.forms import listed
from node.cli.init import FOLDER, JSON, fingerprint
from node.cli.output import FAILED, Failure, Form, check_target, check_task, count, emit, emit_rows
from node.clock import Clock
from node.config import check_address
from node.egress.folder import check_at
from node.names import Names
from node.proxy import Door, dialling, read_proxy
from node.runtime import seeded
from node.site import Site
from node.storage import write_file_durably
from node.task import check_same
from swarm import codec, terms
from swarm.charter import Card, RoundPolicy, check_name, check_policy, make_card, to_toml
from swarm.errors import UsageError
from swarm.identity import SEED_BYTES, node_id, transport_keys
from swarm.invite import invite as sign_invite
from swarm.machine import Contact, NodeId, Received

DAY_MS = 86_400_000
DAYS = click.option("--days", type=click.IntRange(1, 90), default=30, show_default=True, help="Days until it lapses.")


@click.command()
@FOLDER
@listed(short=False)
def members(folder: Path, *, form: Form) -> None:
    """Show who the members are and what is proposed. Asks the running peer of the site in FOLDER."""
    status = ask(Site(folder).control)
    rows, motions = status["members"], status["motions"]
    assert isinstance(rows, list) and isinstance(motions, list), "a status lists both"  # noqa: PT018
    rows = [row for row in rows if row["member"]]
    proposed = [line for motion in motions for line in _motion(motion)]
    if motions:
        vote = f"Say what this site thinks: swarm vote {motions[0]['id'][:8]} yes|no --folder {folder}"
        proposed = ["", "Proposed:", *proposed, vote]
    emit_rows(
        "members",
        [(row, f"  {row['name']:<18} {row['node'][:16]}{'   this site' if row['me'] else ''}") for row in rows],
        form=form,
        head=[f"{status['swarm']}   epoch {status['epoch']}, {status['tolerance']}"],
        foot=proposed,
        rest={"epoch": status["epoch"], "proposals": motions, "quorum": status["quorum"]},
    )


def _motion(motion: Mapping[str, Any]) -> list[str]:
    """Return a proposal in words."""
    until = datetime.fromtimestamp(motion["expires_ms"] / 1000, UTC).strftime("%Y-%m-%d")
    lines = [
        f"  {motion['id'][:8]}  {motion['text']}, proposed by {motion['by']}, open until {until}",
        f"            yes: {', '.join(motion['yes']) or 'nobody'} (of {motion['needed']} needed)",
    ]
    return lines + ([f"            no:  {', '.join(motion['no'])}"] if motion["no"] else [])


@click.command()
@click.argument("proposal")
@click.argument("answer", type=click.Choice(["yes", "no"]))
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="The site's folder.")
@JSON
def vote(proposal: str, answer: str, folder: Path, *, as_json: bool) -> None:
    """Say yes or no to a PROPOSAL, named by the first characters of its id. The last word counts."""
    ask(Site(folder).control, f"vote {proposal} {answer}")
    emit({"proposal": proposal, "vote": answer}, as_json=as_json, text=f"said {answer} to {proposal}")


@click.command()
@FOLDER
@DAYS
@JSON
def leave(folder: Path, days: int, *, as_json: bool) -> None:
    """Propose that this site leaves. The others' peers agree by themselves; its share in the past stays on record."""
    site = Site(folder)
    _propose(site, terms.remove(site.node()), days, as_json=as_json, text="proposed that this site leaves")


@click.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="The site's folder.")
@DAYS
@JSON
def remove(name: str, folder: Path, days: int, *, as_json: bool) -> None:
    """Propose that the member NAME is removed."""
    site = Site(folder)
    rows = ask(site.control)["members"]
    assert isinstance(rows, list), "a status lists members"
    rows = [row for row in rows if row["member"]]
    found = [row["node"] for row in rows if row["name"] == name]
    if not found:
        known = ", ".join(row["name"] for row in rows)
        raise UsageError(f"couldn't propose to remove {name!r}: it is not a member", hint=f"the members are {known}")
    change = terms.remove(NodeId(bytes.fromhex(found[0])))
    _propose(site, change, days, as_json=as_json, text=f"proposed that {name} is removed")


@click.command()
@FOLDER
@click.option("--identity", "whole", is_flag=True, help="New signing keys too; the others vote on that.")
@click.option("--advertise", help="A new address for others to dial; default: the one of today.")
@DAYS
@JSON
def rotate(folder: Path, days: int, *, whole: bool, advertise: str | None, as_json: bool) -> None:
    """Take new keys. They replace the old ones by themselves once the members have agreed.

    A new transport key or address needs nobody's attention: the site's identity vouches for it.
    """
    site = Site(folder)
    rows = ask(site.control)["members"]
    assert isinstance(rows, list), "a status lists members"
    mine = next((row for row in rows if row["me"]), None)
    if mine is None:
        raise UsageError("couldn't take new keys: this site is not a member", hint="see `swarm members`")
    endpoint = mine["endpoint"] if advertise is None else advertise
    check_address(endpoint, "as the endpoint")
    successor = site.make_successor(whole=whole)
    card = make_card(successor, name=mine["name"], endpoint=endpoint)
    what = "new keys of every kind" if whole else "a new transport key"
    text = f"proposed {what}; they are in {site.next_keys} until the members agree"
    _propose(site, terms.rotate(site.node(), card), days, as_json=as_json, text=text)


@click.command()
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="The site's folder.")
@DAYS
@JSON
def policy(changes: tuple[str, ...], folder: Path, days: int, *, as_json: bool) -> None:
    """Propose another policy of rounds, for instance `rounds=60` or `patience_ms=60000`."""
    site = Site(folder)
    status = ask(site.control)
    current, rows = status["policy"], status["members"]
    assert isinstance(current, Mapping) and isinstance(rows, list), "a status has both"  # noqa: PT018
    fresh = dict(current)
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not isinstance(fresh.get(key), int) or not value.isdecimal():
            known = ", ".join(k for k, v in current.items() if isinstance(v, int))
            problem = f"couldn't propose {change!r}: that is no number of the policy of rounds"
            raise UsageError(problem, hint=f"write KEY=NUMBER; keys are {known}")
        fresh[key] = int(value)
    made, members = RoundPolicy(**fresh), sum(bool(row["member"]) for row in rows)
    charter = site.load_charter(site.load_settings()).charter
    try:
        check_policy(made, members, charter.rule, masked=charter.masks > 0, salted=charter.salt > 0)
    except UsageError as error:
        why = error.message.partition(": ")[2]
        hint = "choose numbers in range, and such as what the charter says of updates can stand with"
        raise UsageError(f"couldn't propose {', '.join(changes)}: {why}", hint=hint) from None
    text = f"proposed {', '.join(changes)}"
    if made.rounds != current["rounds"] and status.get("site_noise"):
        text += f"; no vote makes the noise on sums pay more of them: {status['site_noise']}"
    _propose(site, terms.repolicy(made), days, as_json=as_json, text=text)


def _propose(site: Site, change: terms.Change, days: int, *, as_json: bool, text: str) -> None:
    question = f"propose {codec.encode(change).hex()} - {days}"
    ask(site.control, question)
    emit({"change": terms.CHANGES[change.kind], "days": days}, as_json=as_json, text=f"{text}; see `swarm members`")


@click.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="The site's folder.")
@click.option("--days", type=click.IntRange(1, 90), default=7, show_default=True, help="Days until it expires.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; default NAME.invite.")
@JSON
def invite(name: str, folder: Path, days: int, output: Path | None, *, as_json: bool) -> None:
    """Invite the site NAME to ask to join. This site's peer must be running, and reachable for it."""
    check_name("a site", name)
    site, target = Site(folder), output or Path(f"{name}.invite")
    check_target(target)
    if target.exists():
        raise UsageError(f"couldn't write {target}: it exists", hint="name another with -o, or move it away")
    charter = site.load_charter(site.load_settings())
    rows = ask(site.control)["members"]
    assert isinstance(rows, list), "a status lists members"
    mine = next((row for row in rows if row["me"] and row["member"]), None)
    if mine is None or not mine["endpoint"]:
        why = "it is not a member" if mine is None else "it only dials out, so a guest could not reach it"
        raise UsageError(
            f"couldn't invite anybody to this site: {why}", hint="let a member invite that others can dial"
        )
    identity, seed = site.load_identity(), secrets.token_bytes(SEED_BYTES)
    made = sign_invite(
        identity.id_key,
        ledger_id=charter.ledger_id,
        inviter=site.node(),
        name=name,
        guest=transport_keys(seed)[0],
        expires_ms=int(Clock().now() * 1000) + days * DAY_MS,
    )
    inviter = Contact(site.node(), mine["name"], identity.curve_public, mine["endpoint"])
    text = invitation_to_toml(Invitation(made, seed, inviter, charter))
    invitation_from_toml(text)
    site.keep_invite(made)
    ask(site.control, f"invite {made.encode().hex()}")
    write_file_durably(target, text.encode())
    words = (
        f"{target} lets {name} ask to join for {count(days, 'day')}. Give it to that site alone; there:\n"
        f"  swarm join {target} FOLDER --advertise tcp://its-host:port --data DATA   (with the task file in FOLDER)"
    )
    emit({"invite": str(target), "name": name, "days": days}, as_json=as_json, text=words)


@click.command()
@click.argument("invitation", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--advertise", default="", help="Address others dial, tcp://host:port; none if this site only dials out.")
@click.option("--listen", default="", help="Address to listen on; default: every interface, at the advertised port.")
@click.option("--task", default="task.py", show_default=True, help="The task file the charter was made with.")
@click.option("--data", default="data", show_default=True, help="This site's own data, handed to the task.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), help="Seconds to wait for the members; default: for ever.")
@JSON
def join(
    invitation: Path,
    folder: Path,
    advertise: str,
    listen: str,
    task: str,
    data: str,
    wait_s: float | None,
    *,
    as_json: bool,
) -> None:
    """Ask to join a running swarm with an INVITATION, making the site in FOLDER if there is none yet.

    Ends when the members have decided. Interrupted, it may be run again: the same site asks again.
    """
    check_address(advertise, "as the endpoint")
    if advertise and not listen:
        listen = f"tcp://0.0.0.0:{advertise.rpartition(':')[2]}"
    found = _read_invitation(invitation)
    charter, name = found.charter.charter, found.invite.name
    site = Site(folder)
    path = site.folder / task
    check_task(path)
    check_same(path, charter.task.digest, f"couldn't join {charter.name!r}")
    fresh = not site.settings_path.exists()
    if fresh:
        make = site.adopt if site.keys.exists() else site.create
        make(name=name, listen=listen, advertise=advertise, task=task, data=data)
    if not fresh:
        check_at(site, site.load_settings(), found.charter, site.node(), f"couldn't join {charter.name!r}")
    site.begin_anew()
    identity = site.load_identity()
    card = make_card(identity, name=name, endpoint=advertise)
    write_file_durably(site.folder / "charter.toml", to_toml(found.charter).encode(), mode=0o644)
    write_file_durably(site.sponsors_path, contact_to_toml(found.inviter).encode(), mode=0o644)
    if not as_json:
        click.echo(
            f"{name} asks {found.inviter.name} to join {charter.name}   fingerprint {fingerprint(card)}", err=True
        )
    network = site.load_settings().network
    with dialling(read_proxy(network, site.folder)) as door:
        answer = _knock(found, card, wait_s, door, ipv6=network.ipv6, as_json=as_json)
    if answer is None or answer.state == "refused":
        why = "nobody has decided yet" if answer is None else answer.text
        raise Failure(
            f"{name} is not a member of {charter.name}: {why}", code=FAILED, hint="run the same command again"
        )
    words = f"{name} is a member of {charter.name}. Next: swarm start {folder}"
    emit({"name": name, "node": identity.node.hex(), "folder": str(folder)}, as_json=as_json, text=words)


def _read_invitation(path: Path) -> Invitation:
    try:
        return invitation_from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        wrong = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"couldn't read {path}: {wrong}", hint=ASK_AGAIN) from None


def _knock(
    found: Invitation, card: Card, wait_s: float | None, door: Door | None, *, ipv6: bool, as_json: bool
) -> KnockAnswer | None:
    """Ask until the members have decided or the time is up. Tell people how it stands whenever that changes."""
    public, secret = found.guest_keys
    inviter = PeerAddress(
        node=found.inviter.node,
        name=found.inviter.name,
        curve_key=found.inviter.curve_key,
        endpoint=found.inviter.endpoint,
    )
    clock, told = Clock().now, ""
    end = None if wait_s is None else clock() + wait_s
    transport = Transport(
        secret_key=secret,
        public_key=public,
        listen=None,
        peers=[inviter],
        clock=clock,
        rng=seeded(node_id(public)),
        ipv6=ipv6,
        names=Names(ipv6=ipv6),
        through=None if door is None else door.way,
    )

    def receive(timeout_s: float) -> list[bytes]:
        nonlocal told
        if end is not None and clock() >= end:
            raise TimeoutError
        items = [*transport.poll(min(timeout_s, 0.5)), *(door.incidents() if door is not None else ())]
        for item in items:
            if isinstance(item, Incident) and not as_json and item.text != told:
                told = item.text
                click.echo(f"  {told}", err=True)
        return [item.frame for item in items if isinstance(item, Received)]

    transport.open()
    try:
        for answer in knock(card, lambda frame: void(transport.send(inviter.node, frame)), receive, clock):
            if answer.state != "voting":
                return answer
            if answer.text != told and not as_json:
                told = answer.text
                click.echo(f"  {told}", err=True)
    except TimeoutError:
        pass
    finally:
        transport.close()
    return None


def void(_: object) -> None:
    """Forget a value: a frame that could not be sent is sent again soon."""
