"""No parser without a row: whatever takes bytes apart in the source is in the table, or is of the site's own bytes.

The walk finds calls by name: of decoders (`codec.decode`, `tomllib.loads`, ...) and of methods that only decoders have.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.parsers import PARSERS

ROOT = Path(__file__).parents[2]

DECODERS = {
    "codec.decode", "codec.decode_open", "tomllib.loads", "tomllib.load", "toml.loads", "json.loads", "json.load",
    "msgspec.json.decode", "msgspec.msgpack.decode", "msgspec.toml.decode", "msgpack.unpackb", "np.load", "np.loadtxt",
    "tarfile.open", "csv.reader", "ET.fromstring", "nx.parse_graphml", "base64.b64decode", "safe_open", "load_file",
    "zlib.decompress", "zipfile.ZipFile", "pickle.loads",
}  # fmt: skip
METHODS = {"unpack", "unpack_from", "iter_unpack", "readexactly", "readuntil", "fromhex", "read_magic"}

CHECKED = "what a row before has let through: the ledger's own blocks and entries, read again"
OWN = "written by this site, and read by nobody but it"
CHILD = "said by a process that this one has started"
WRITES = "no reading: it writes, or reads back what it has just written"
KEPT: dict[str, str] = {
    "swarm.ledger.participation:Participation.note": CHECKED, "swarm.ledger.scores:Scores.note": CHECKED,
    "node.coalitions:coalition_from": "said by the node that has started it, of updates that were read through",
    "swarm.ledger.state:before_close": CHECKED,
    "swarm.ledger.replica:Replica._check_recorded": CHECKED, "swarm.ledger.consensus:Consensus.restore": CHECKED,
    "swarm.ledger.evidence:from_contradiction": CHECKED,
    "node.core.appraisal:_Clock.read": CHECKED, "node.core.telling:Telling.tell": CHECKED, "node.core.node:Node._restore_blocks": CHECKED,
    "node.core.node:Node._asked": "the operator's own command line, by the control socket: the row question",
    "topologies.world.truths:Agreement.on_persist": CHECKED,
    "node.cli.ledger.checking:follow_leaves": CHECKED, "node.cli.ledger.following:Following.fresh": CHECKED,
    "node.dashboard.explorer:_of_block": CHECKED,
    "node.dashboard.server:verified": "said by the command that it has started",
    "node.dashboard.beside:Beside._announcement": CHILD, "node.telemetry.spans:Spans.take": OWN,
    "node.cli.ledger.checking:walk": CHECKED, "node.cli.ledger.forks:forks": CHECKED,
    "node.cli.ledger.members:_charges": CHECKED, "node.cli.ledger.reading:blamed": CHECKED,
    "node.cli.ledger.reading:blocks_of": CHECKED, "node.cli.ledger.reading:Words.learn": CHECKED,
    "node.cli.ledger.reading:describe": CHECKED, "node.cli.ledger.reading:body_of": CHECKED,
    "node.cli.ledger.repair:_compare": CHECKED, "node.cli.ledger.rounds:_late": CHECKED,
    "node.cli.ledger.tiled:_Follower._take_derived": CHECKED, "node.cli.ledger.transport:_export_lines": CHECKED,
    "node.cli.start:participation": CHECKED, "node.cli.backup:_check_said": CHECKED,
    "node.cli.backup:verify": "it calls the row backup", "node.cli.backup:restore": "it calls the row backup",
    "node.cli.backup:_refuse_beside_original": CHECKED, "node.cli.backup:_check": CHECKED,
    "node.backup:check_key": CHECKED, "node.backup:check_keys": CHECKED,
    "node.backup:open_keys": "sealed: nothing is decoded that whoever knows the passphrase did not write",
    "node.backup:_create": WRITES, "node.cli.support:_write": WRITES, "node.cli.support:_log": OWN,
    "node.cli.support:_doctor": CHILD, "node.doctor.machine:gpu": CHILD, "node.forker:Forker._accept": CHILD,
    "node.forkserver:ForkedProcess.__init__": CHILD, "node.forkserver:ForkedProcess.poll": CHILD,
    "node.trainer:Trainer._read_messages": CHILD,
    "node.framing:receive": "said by the node, or by the process beside it, to one that has joined either",
    "node.worker:Worker.answer": "said by the node that has started it", "node.private:PrivateFolder._read": OWN,
    "node.cli.control:ask": "said by the site's own node", "node.cli.members:remove": "from the command line",
    "node.data:_mnist_arrays": "a file of the person who makes an example of it", "node.site:Site.node": OWN,
    "node.site:Site.load_invites": OWN, "node.storage:BlobStore.listing": OWN,
    "node.chained:Chained.each": OWN, "node.egress.waiting:Offer.trained": OWN, "node.egress.waiting:_read": OWN,
    "node.egress.waiting:_stored": OWN, "node.egress.record:told_by": CHECKED, "node.cli.egress:_said": CHECKED,
    "node.vault:Vault._unlocked": OWN, "node.vault:Vault.seed": OWN, "node.vault:_derived": OWN,
    "node.spending:Rounds.until": CHECKED, "node.spending:Rounds._read": CHECKED, "node.cli.audit:_said": OWN,
    "node.cli.audit:_run": CHILD, "node.audit.__main__:main": "said by the command that has started it",
    "node.tables.forests:boosters": "by XGBoost's own reader, of its own format, which is no part of this",
    "node.succession:_outcome": "a file in the drafter's own folder, by safetensors' reader; its digest is the ledger's",
    "node.loop.peer:Peer._is_ours": OWN, "node.loop.peer:_Result.arrays": OWN, "node.alone:kept": OWN, "node.alone:result_of": OWN,
    "node.cli.evaluate:_unpacked": OWN, "node.disclosed:Disclosed._before": OWN, "node.evaluation:load_cases": CHILD,
    "node.loop.together:SharedPeer._broadcast": "said by the first process of the same script",
    "node.loop.together:SharedPeer._gathered": "said by the processes of the same script",
    "node.loop.trainer:ScriptTrainer._next_body": "the length alone, checked there; the rest is the row script",
    "node.loop.trainer:_process": "said by the kernel",
    "gossip.zeromq:_next_event": "said by libzmq of its own sockets",
}  # fmt: skip


def called(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{called(value)}.{name}"
        case _:
            return ""


def parsers(node: ast.AST, module: str, name: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the functions that call a decoder."""
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*name, child.name)
        if isinstance(child, ast.Call):
            function = called(child.func)
            if function in DECODERS or ("." in function and function.rpartition(".")[2] in METHODS):
                yield f"{module}:{'.'.join(name)}"
        yield from parsers(child, module, inner)


def in_source() -> set[str]:
    found: set[str] = set()
    for package in ("swarm", "gossip", "topologies", "node"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "examples" not in path.parts:  # a user's own task, reading a user's own data
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found |= {*parsers(ast.parse(path.read_text()), module)}
    return found


def test_every_parser_has_a_row_or_reads_what_is_ours() -> None:
    covered = {function for parser in PARSERS.values() for function in parser.covers}
    found = in_source()
    missing = found - covered - {*KEPT}
    assert not missing, f"a parser of received bytes without a row in tests/fuzz/parsers.py: {sorted(missing)}"
    assert not (gone := (covered | {*KEPT}) - found), f"a row for what is not there any more: {sorted(gone)}"
    assert not covered & {*KEPT}


def test_the_walk_sees_a_parser() -> None:
    text = "class A:\n    def read(self, data):\n        return codec.decode(data, B, limit=1)\n"
    assert [*parsers(ast.parse(text), "m")] == ["m:A.read"]
    assert [*parsers(ast.parse("def f(x):\n    y = lambda: _HEAD.unpack(x)\n"), "m")] == ["m:f"]
    assert [*parsers(ast.parse("def f(x):\n    return x.pack()\n"), "m")] == []
