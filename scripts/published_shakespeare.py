"""Next characters by speaking role in Shakespeare, beside the paper that federated learning began with.

    PYTHONPATH=. python scripts/published_shakespeare.py ROLES.json.gz [--roles 50] [--seeds 1 2 3] [--quick]

McMahan, Moore, Ramage, Hampson & Agüera y Arcas, "Communication-efficient learning of deep networks from decentralized
data" (2017), section 3: every speaking role of every play is a client, the first four fifths of its lines are to train
on and the rest to test on; a character LSTM predicts the next of each character, unrolled over 80 of them. Table 2:
54 % of all test characters after 41 rounds (E = 5, B = 10, a tenth of the clients drawn each round).

What is the same here: roles as sites, 80 characters, plain SGD, a tenth of the sites a round, 41 rounds, and steps of
as much text (its batches are of 10 lines, by its count of steps of some 40 characters each; ours of 5 stretches of 80).
What is not, since this is to take minutes on a laptop's processor: one layer of 64 units (`--hidden`) and not two of
256, a thirtieth of the parameters; 50 roles (`--roles`), drawn once among those with 2,000 to 5,000 characters to train
on (`--least`, `--most`), the same for every seed, and not all of them; one pass over its text by a role that is drawn
(`--epochs`), not five. All roles and five passes, with a layer of 128, take 35 minutes of one core for each seed:
`--roles 2000 --least 2 --most 1000000 --hidden 128 --rate 4 --epochs 5`. Theirs, `--hidden 256 --layers 2`, takes
five times as long.

A test stretch begins with 20 characters of what went before, of which no answer is asked: a model that knows nothing of
the line so far would be tested on guessing. The n-grams look at all that went before. They answer what followed most
often after the longest context that they have seen, of up to five characters, and they are what a model must beat to be
worth training. *Alone* is one role's text, *pooled* that of all roles together; *personalised* is the swarm's last
model, trained on at each role for a pass. Swarm, alone and pooled go through a role's text equally often, four times.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact, Simulation
from scripts.many_sites import Sites, right, say
from scripts.side_by_side import ALL_CASES, Bar, Cell, Published, Row, Score, Table
from swarm.mixing.outer import parse as parse_outer

UNROLL = 80
WARM = 20
"""Characters before a test stretch that are read and not asked for."""

ORDER = 6
NOT_ASKED = -100
"""The label that PyTorch's cross entropy leaves out."""

EMBEDDED = 8
DRAW = 2_017
"""Which roles take part does not depend on the seed, so that scores of different seeds are of the same characters."""

ALONE, SWARM, TUNED, POOLED = "alone", "swarm", "personalised", "pooled"
OWN_GRAM, ALL_GRAM = "6-gram alone", "6-gram pooled"

QUICK = {"roles": 4, "rounds": 2, "epochs": 1, "hidden": 16, "alone": 1, "pooled": 1, "least": 1000, "most": 2500}
"""A cut that takes seconds and shows that everything works, and nothing else."""


@dataclass(frozen=True, slots=True)
class Role:
    """A speaking role and its text, as numbers of characters."""

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]


class CharacterLSTM(nn.Module):
    """Embeddings of 8, an LSTM, and a score for each next character: (batch, length) to (batch, characters, length)."""

    def __init__(self, characters: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDED)
        self.lstm = nn.LSTM(EMBEDDED, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Score next characters; the state begins from zero."""
        scores: Tensor = self.output(self.lstm(self.embedding(x.long()))[0])
        return scores.transpose(1, 2)


def main() -> None:
    """Train everything with each seed and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", type=pathlib.Path, help="shakespeare_roles.json.gz")
    options.add_argument("--roles", type=int, default=50)
    options.add_argument("--least", type=int, default=2_000, help="characters that a role must have to train on")
    options.add_argument("--most", type=int, default=5_000, help="and may have at most")
    options.add_argument("--rounds", type=int, default=41)
    options.add_argument("--fraction", type=float, default=0.1, help="of the roles, that train in a round")
    options.add_argument("--epochs", type=int, default=1, help="passes of a role that is drawn")
    options.add_argument("--batch", type=int, default=5, help="stretches of 80 characters in a step")
    options.add_argument("--rate", type=float, default=2.0)
    options.add_argument("--tuning-rate", type=float, default=1.0, help="at which roles train the swarm's model on")
    options.add_argument("--hidden", type=int, default=64)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--alone", type=int, default=4, help="passes of a role that trains alone")
    options.add_argument("--pooled", type=int, default=4, help="passes over the pooled text")
    options.add_argument("--outer", nargs="+", default=["none"], help="a column for each, as the charter has them")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--workers", type=int, default=None, help="processes; by default one a core")
    options.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        vars(chosen).update(QUICK)
    torch.set_num_threads(1)
    roles, characters = read(chosen.file, chosen.roles, chosen.least, chosen.most)
    trial, scores = Trial(roles, characters, chosen), []
    grams = trial.by_counting()
    for seed in chosen.seeds:
        scores += scored(roles, seed, {**grams, **trial.scores(seed)})
        say(f"seed {seed} is done\n{report(trial, scores)}")  # whoever stops it early keeps what was paid for
    print(report(trial, scores), end="")


def read(path: pathlib.Path, count: int, least: int, most: int) -> tuple[list[Role], int]:
    """Return roles that have enough to say, and how many characters the whole file knows."""
    try:
        text: Mapping[str, Mapping[str, str]] = json.loads(gzip.decompress(path.read_bytes()))
        if not all(isinstance(parts[part], str) for parts in text.values() for part in ("train", "test")):
            raise ValueError("a role's text is none")
    except _UNREADABLE as error:
        sys.exit(
            f"error: couldn't read {path}: {error}\nhint: give {{role: {{train: text, test: text}}}} as JSON, gzip"
        )
    alphabet = sorted({character for parts in text.values() for part in parts.values() for character in part})
    number = {character: place for place, character in enumerate(alphabet)}
    long_enough = sorted(
        name for name, parts in text.items() if least <= len(parts["train"]) <= most and len(parts["test"]) > 1
    )
    if len(long_enough) < 2 or count < 2:
        sys.exit(f"error: couldn't take {count} roles: {len(long_enough)} have that much text\nhint: change --least")
    drawn = np.random.default_rng(DRAW).permutation(len(long_enough))[:count]
    names = sorted(long_enough[place] for place in drawn)
    codes = {
        name: [np.array([number[one] for one in text[name][part]], np.int64) for part in ("train", "test")]
        for name in names
    }
    return [Role(name, *codes[name]) for name in names], len(alphabet)


_UNREADABLE = (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, zlib.error)
"""What a file raises that is not packed, is no JSON, or is JSON of something else."""


def stretches(codes: NDArray[np.int64], warm: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (n, warm + 80) characters and what follows each of them, `NOT_ASKED` where nothing is to be said.

    Every character but the first is asked for once. What is left over of the last stretch is filled up.
    """
    starts = range(0, len(codes) - 1, UNROLL)
    x = np.zeros((len(starts), warm + UNROLL), np.float32)
    y = np.full(x.shape, NOT_ASKED, np.int64)
    for row, start in enumerate(starts):
        begin, end = max(0, start - warm), min(start + UNROLL, len(codes) - 1)
        x[row, : end - begin] = codes[begin:end]
        y[row, start - begin : end - begin] = codes[start + 1 : end + 1]
    return x, y


class Trial:
    """What is learned of some roles, with any seed."""

    def __init__(self, roles: Sequence[Role], characters: int, chosen: argparse.Namespace) -> None:
        self.roles, self.characters, self.chosen = roles, characters, chosen
        self._train, self.shares = _gathered([stretches(role.train) for role in roles])
        self._test, self._tests = _gathered([stretches(role.test, WARM) for role in roles])
        self.cases = [len(role.test) - 1 for role in roles]
        self.curve: dict[str, list[str]] = defaultdict(list)
        self.elements = self._sites(0).model().elements

    @property
    def swarms(self) -> dict[str, str]:
        """Return the columns that are swarms, and the outer optimiser of each."""
        return {SWARM if outer == "none" else f"{SWARM}, {outer}": outer for outer in self.chosen.outer}

    def scores(self, seed: int) -> dict[str, list[float]]:
        """Train everything with one seed; return the share of right characters by column and role."""
        chosen, sites, found = self.chosen, self._sites(seed), {}
        for column, outer in self.swarms.items():
            exchange = Exact(fraction=chosen.fraction, outer=parse_outer(outer))

            def now_and_then(number: int, simulation: Simulation, column: str = column) -> None:
                if number in {chosen.rounds // 8, chosen.rounds // 4, chosen.rounds // 2, chosen.rounds}:
                    by_role = self._shares_of(simulation.model(0))
                    reached = np.average(by_role, weights=self.cases)
                    self.curve[f"{column}, seed {seed}"].append(f"{reached:.3f} after {number}")
                    say(f"seed {seed}: {column}, {reached:.3f} of all characters after {number} rounds")

            [model] = sites.together(exchange, chosen.rounds, on_round=now_and_then)
            found[column] = self._shares_of(model)
            if column == next(iter(self.swarms)):
                found[TUNED] = self._own(sites.tuned(model, 1, chosen.tuning_rate))
            say(f"seed {seed}: {column}")
        found[POOLED] = self._shares_of(sites.pooled(chosen.pooled))
        say(f"seed {seed}: {POOLED}")
        found[ALONE] = self._own(sites.apart(chosen.alone))
        say(f"seed {seed}: {ALONE}")
        return found

    def by_counting(self) -> dict[str, list[float]]:
        """Return the same of the n-grams, in which there is no chance."""
        everybody = counted([role.train for role in self.roles])
        return {
            OWN_GRAM: [_guessed(counted([role.train]), role.test) for role in self.roles],
            ALL_GRAM: [_guessed(everybody, role.test) for role in self.roles],
        }

    def _sites(self, seed: int) -> Sites:
        chosen = self.chosen
        return Sites(
            build=lambda: CharacterLSTM(self.characters, chosen.hidden, chosen.layers),
            train=self._train,
            shares=self.shares,
            local=LocalTraining(learning_rate=chosen.rate, batch=chosen.batch, epochs=chosen.epochs),
            seed=seed,
            form="loop",  # what `auto` would come to: torch.func stacks no LSTM
            workers=chosen.workers,
        )

    def _shares_of(self, vector: NDArray[np.float32]) -> list[float]:
        """Return what one model comes to at every role."""
        hits = right(self._sites(0).model(), vector, self._test)
        return [int(hits[rows].sum()) / cases for rows, cases in zip(self._tests, self.cases, strict=True)]

    def _own(self, vectors: Sequence[NDArray[np.float32]]) -> list[float]:
        """Return what each role's own model comes to at that role."""
        model = self._sites(0).model()
        return [
            int(right(model, vector, Dataset(self._test.x[rows], self._test.y[rows])).sum()) / cases
            for vector, rows, cases in zip(vectors, self._tests, self.cases, strict=True)
        ]


def _gathered(
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
) -> tuple[Dataset, list[NDArray[np.int64]]]:
    """Return all stretches one behind the other, and which are whose."""
    x, y = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    ends = np.cumsum([len(part[0]) for part in parts])
    return Dataset(x, y), [np.arange(end - len(part[0]), end) for end, part in zip(ends, parts, strict=True)]


Contexts = Mapping[tuple[int, ...], int]


def counted(texts: Sequence[NDArray[np.int64]]) -> Contexts:
    """Return what follows each context of up to five characters most often; of equals the first of the alphabet."""
    follows: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for text in texts:
        codes = text.tolist()
        for place, character in enumerate(codes):
            for length in range(min(place, ORDER - 1) + 1):
                follows[tuple(codes[place - length : place])][character] += 1
    return {context: min(after, key=lambda one: (-after[one], one)) for context, after in follows.items()}


def _guessed(contexts: Contexts, text: NDArray[np.int64]) -> float:
    """Return the share of characters, all but the first, that the longest known context says rightly."""
    codes, hits = text.tolist(), 0
    for place in range(1, len(codes)):
        tails = (tuple(codes[place - length : place]) for length in range(min(place, ORDER - 1), -1, -1))
        hits += contexts[next(tail for tail in tails if tail in contexts)] == codes[place]
    return hits / (len(codes) - 1)


def scored(roles: Sequence[Role], seed: int, by_column: Mapping[str, Sequence[float]]) -> list[Score]:
    """Return what the table is given of one seed."""
    return [
        Score(seed, column, role.name, value)
        for column, values in by_column.items()
        for role, value in zip(roles, values, strict=True)
    ]


def report(trial: Trial, scores: Sequence[Score]) -> str:
    """Return the table of all seeds so far."""
    chosen, names = trial.chosen, [role.name for role in trial.roles]
    lengths = [len(role.train) for role in trial.roles]
    text, shortest = sum(lengths), min(lengths)
    passes = chosen.rounds * chosen.fraction * chosen.epochs
    return Table(
        title="Next characters told rightly",
        rows=[Row(name, cases) for name, cases in zip(names, trial.cases, strict=True)],
        columns=[OWN_GRAM, ALONE, *trial.swarms, TUNED, POOLED, ALL_GRAM],
        scores=scores,
        is_share=True,
        folded=True,
        published=[Published("FedAvg", SOURCE, {ALL_CASES: Cell(0.54)})],
        bars=[Bar(SWARM, 0.54, "theirs", ALL_CASES)] if SWARM in trial.swarms and not chosen.quick else [],
        notes=[
            f"{len(names)} roles, {text:,} characters to train on, {shortest:,} and more each.",
            f"LSTM {chosen.layers} x {chosen.hidden}, {trial.elements:,} parameters, rate {chosen.rate:g}.",
            f"Passes over the text: swarm {passes:.1f} on average, alone {chosen.alone}, pooled {chosen.pooled}.",
            *(f"All characters, {run}: {', '.join(curve)} rounds." for run, curve in trial.curve.items()),
        ],
    ).text()


SOURCE = "McMahan et al. 2017, table 2: E = 5, B = 10, after 41 rounds; LSTM 2 x 256, about 1,146 roles"


if __name__ == "__main__":
    main()
