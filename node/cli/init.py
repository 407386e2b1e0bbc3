"""`swarm init` and `swarm keygen`: a site and its identity."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.output import emit
from node.config import check_address
from node.passphrase import read_passphrase
from node.site import Site
from swarm.charter import Card
from swarm.errors import UsageError

FOLDER = click.argument("folder", type=click.Path(path_type=Path), default=Path())
NAME = click.option("--name", required=True, help="The site's name in the swarm: letters, digits, - and _.")
ADVERTISE = click.option(
    "--advertise", default="", help="Address others dial, tcp://host:port. Leave out if this site only dials out."
)
PASSPHRASE = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Encrypt the keys with the first line of this file, readable by you alone.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command()
@FOLDER
@NAME
@ADVERTISE
@click.option("--listen", default="", help="Address to listen on; default: every interface, at the advertised port.")
@click.option("--task", default="task.py", show_default=True, help="The task file.")
@click.option("--data", default="data", show_default=True, help="This site's own data, handed to the task.")
@PASSPHRASE
@JSON
def init(
    folder: Path,
    name: str,
    advertise: str,
    listen: str,
    task: str,
    data: str,
    passphrase_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Make a site in FOLDER: settings, keys, card. Keys and card that `swarm keygen` made there are kept."""
    check_address(advertise, "as the endpoint")
    if advertise and not listen:
        listen = f"tcp://0.0.0.0:{advertise.rpartition(':')[2]}"
    site = Site(folder)
    if site.keys.exists():
        if passphrase_file is not None:
            hint = "`swarm key encrypt` encrypts those that are there"
            raise UsageError(f"couldn't make keys in {site.keys}: there are keys already", hint=hint)
        card = site.adopt(name=name, listen=listen, advertise=advertise, task=task, data=data)
    else:
        secret = "" if passphrase_file is None else read_passphrase(passphrase_file)
        card = site.create(name=name, listen=listen, advertise=advertise, task=task, data=data, passphrase=secret)
    after = f"put the charter in {folder}, sign it with `swarm charter sign`, then `swarm start {folder}`"
    _tell(site, card, after, as_json=as_json)


@click.command()
@FOLDER
@NAME
@ADVERTISE
@PASSPHRASE
@JSON
def keygen(folder: Path, name: str, advertise: str, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Make only keys and card in FOLDER."""
    site = Site(folder)
    secret = "" if passphrase_file is None else read_passphrase(passphrase_file)
    card = site.make_keys(name=name, endpoint=advertise, passphrase=secret)
    dialled = f" --advertise {advertise}" if advertise else ""
    _tell(site, card, f"`swarm init {folder} --name {name}{dialled}` makes a site of them", as_json=as_json)


def fingerprint(card: Card) -> str:
    """Return a member's id in a form to read out on the phone: eight groups of four."""
    text = card.node.hex()[:32]
    return " ".join(text[i : i + 4] for i in range(0, 32, 4))


def _tell(site: Site, card: Card, after: str, *, as_json: bool) -> None:
    kept = ", encrypted" if site.vault.locked else ""
    text = (
        f"{card.name} is ready in {site.folder}\n"
        f"  fingerprint   {fingerprint(card)}\n"
        f"  card          {site.card_path}   (public: send it to whoever drafts the charter)\n"
        f"  keys          {site.keys}   (secret{kept}: back them up, show them to nobody)\n"
        f"Next: {after}."
    )
    data = {"name": card.name, "node": card.node.hex(), "card": str(site.card_path), "folder": str(site.folder)}
    emit(data, as_json=as_json, text=text)
