"""SHELL. The model of an earlier round, for a swarm that goes on from there: which it is, and where a site has it.

A swarm whose ledger cannot go on, or whose last models hold work that was taken back (`node.lineage`), is continued by
a successor, which may begin with the model of any round that was committed. The old ledger names that model by its
digest; so whatever file it comes from, a blob, a checkpoint or an export, it is the right one or it is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from node.site import Site
from node.storage import store_error, write_file_durably
from swarm.errors import UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.participation import ranges
from swarm.vector import Layout, blob_digest, flatten, leaf_hashes


def model_at(result: Audit, number: int, site: Site) -> bytes:
    """Return the digest of the outcome of a committed round, 0 for what the charter began with.

    Where that round was one of gossip it is the own model of a site that this folder has, of several the first by id.

    Raises:
        UsageError: that round is not committed, or was one of gossip and none of its models is here.
    """
    state = result.state
    if number == 0:
        return state.signed.charter.task.initial_model
    view = result.rounds.get(number)
    if view is None or view.commit is None:
        done = state.committed.round
        raise UsageError(
            f"couldn't draft a successor at round {number}: that ledger has {done or 'no'} committed"
            f" round{'' if done == 1 else 's'}",
            hint="`swarm ledger rounds` lists them; 0 is the model that all began with",
        )
    if view.commit.model_bytes:
        return view.commit.model_digest
    found = next((own for _, own in sorted(view.models.items()) if (site.blobs / own.hex()).is_file()), None)
    if found is None:
        raise UsageError(
            f"couldn't draft a successor at round {number}: it was one of gossip, which ends with a model of its own at"
            f" each site, and none of them is in {site.folder}",
            hint="name with --after the folder of a site that took part in that round, or begin with a common model",
        )
    return found


def outcome_file(result: Audit, number: int, model: bytes, site: Site, folder: Path) -> Path:
    """Return a file with the outcome of a round: the site's blob, or one written into `folder` from what it exported.

    Raises:
        UsageError: the site has it no more.
        StoreError: the disk refused.
    """
    blob = site.blobs / model.hex()
    if blob.is_file():
        return blob
    for path in _exports(site, number):
        data = _outcome(path, site.run / "layout")
        if data and blob_digest(len(data), leaf_hashes(data)) == model:
            target = folder / model.hex()
            write_file_durably(target, data, mode=0o644)
            return target
    kept = [one for one in result.rounds if any(_exports(site, one))]
    which = f"; it has files of round{'s' * (len(kept) > 1)} {ranges(sorted(kept))}" if kept else ""
    raise UsageError(
        f"couldn't draft a successor at round {number}: the model of that round is not in {site.folder}{which}",
        hint="name with --after the folder of a site that keeps models on the way (storage.keep_models, keep_every), or"
        " copy its round-NNNN.safetensors to the folder models; or take another round, 0 being the first model of all",
    )


def _exports(site: Site, number: int) -> Iterator[Path]:
    """Yield the files of a round's model that the node or its people have written."""
    for folder in (site.models / "checkpoints", site.models):
        for kind in ("round", "best"):
            path = folder / f"{kind}-{number:04d}.safetensors"
            if path.is_file():
                yield path


def _outcome(path: Path, layout: Path) -> bytes:
    """Return a model as it was before it became named tensors; nothing if the file is no such model."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return flatten(load_file(path), Layout.decode(layout.read_bytes())).tobytes()
    except (SafetensorError, UsageError):
        return b""
    except FileNotFoundError:
        return b""  # No node has run in this folder, so nobody knows the order of the tensors.
    except OSError as error:
        raise store_error(f"read {path}", error) from error
