"""The four real hospitals of UCI Heart Disease, site by site, beside FLamby's published figures.

    PYTHONPATH=. python scripts/published_heart_disease.py FOLDER [--seeds 1 2 3] [--rounds 20] [--local ditto:0.1]

FOLDER holds the four processed.*.data files. FLamby's cleaning and split (Ogier du Terrail et al. 2022,
Fed-Heart-Disease, `node.data.write_heart_disease`), which are the same with every seed; a seed draws the model that all
begin with and the order of patients. Four real peers as processes (`scripts/real_peers.py`).

The task is the packaged one, `node/examples/heart_disease.py`: logistic regression, as FLamby's. What it does otherwise
was decided before any result, and not on the test split: features are brought to one scale by constants agreed in
advance (FLamby feeds raw ones, cholesterol in hundreds beside indicators), and each round goes over a site's patients
five times. Here it also personalises, by two more rounds at home (`--fine-tune`), the number in
docs/guides/your-own-training.md.
"""

import argparse
import pathlib

import node.examples
from node.data import HEART_SITES, SiteData, write_heart_disease
from scripts import real_peers
from scripts.side_by_side import ALL_CASES, Bar, Cell, Published, Row, Score, Table

FLAMBY = "FLamby (Ogier du Terrail et al. 2022), means over 5 seeds, its own split and raw features"

# From its repository's results, by method: the four clients in order, then the pooled test.
FLAMBY_ACCURACY = {
    "FedAvg": ((0.7308, 0.0215), (0.7191, 0.0328), (0.65, 0.1135), (0.64, 0.0507), (0.748, 0.0268)),
    "Scaffold": ((0.7269, 0.0187), (0.7191, 0.0328), (0.65, 0.1135), (0.64, 0.0507), (0.748, 0.0268)),
    "FedAdagrad": ((0.7596, 0.018), (0.7528, 0.0178), (0.7375, 0.028), (0.6756, 0.0404), (0.7787, 0.0153)),
    "pooled": ((0.7827, 0.011), (0.764, 0.0), (0.75, 0.0), (0.6444, 0.0), (0.7953, 0.0028)),
}
BARS = (
    Bar(real_peers.SWARM, 0.731, "FLamby's best federated, FedAdagrad and FedYogi"),
    Bar(real_peers.SWARM, 0.735, "FLamby's pooled training"),
)
QUICK_ROUNDS = 2


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment for each seed and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--fine-tune", type=int, default=2, help="rounds at home that make a personal model; 0: none")
    options.add_argument("--local", default="", help="as of `swarm charter new`: fedprox:0.01, scaffold, ditto:0.1")
    options.add_argument("--outer", default="none", help="as of `swarm charter new`: momentum, adam, yogi, ...")
    options.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_ROUNDS} rounds: whether it runs")
    chosen = options.parse_args(arguments)
    seeds, rounds = (chosen.seeds[:1], QUICK_ROUNDS) if chosen.quick else (chosen.seeds, chosen.rounds)
    scores: list[Score] = []
    sites: list[SiteData] = []

    def trial(_: int, folder: pathlib.Path) -> real_peers.Trial:
        sites[:] = write_heart_disease(chosen.folder, folder)
        return real_peers.Trial(
            task=task_file(folder / "task.py", chosen.fine_tune, chosen.local),
            sites=sites,
            pooled=SiteData("pooled", folder / "pooled", 0, 0, 0),
            rounds=rounds,
            metrics=("accuracy",),
            terms={"local": chosen.local, "outer": chosen.outer},
        )

    for seed, found in real_peers.over_seeds(seeds, trial):
        scores += real_peers.site_scores(found, seed=seed, metric="accuracy")
    print(table(sites, scores, rounds).text())


def task_file(path: pathlib.Path, fine_tune: int, local: str) -> pathlib.Path:
    """Write the packaged task, and below it how a site personalises; Ditto has a personal model of its own."""
    packaged = pathlib.Path(node.examples.__file__).parent / "heart_disease.py"
    tuned = f"\n\nfine_tune = {fine_tune}\n" if fine_tune and not local.startswith("ditto") else ""
    path.write_text(packaged.read_text(encoding="utf-8") + tuned, encoding="utf-8")
    return path


def table(sites: list[SiteData], scores: list[Score], rounds: int) -> Table:
    """Return all of it."""
    return Table(
        title=f"Accuracy at a threshold of 0.5 on each hospital's held-out patients, {rounds} rounds",
        rows=[Row(site.name, site.held_out) for site in sites],
        columns=real_peers.COLUMNS,
        scores=scores,
        is_share=True,
        published=[
            Published(
                method, FLAMBY, dict(zip((*HEART_SITES, ALL_CASES), (Cell(*cell) for cell in cells), strict=True))
            )
            for method, cells in FLAMBY_ACCURACY.items()
        ],
        bars=BARS,
        notes=[
            "Switzerland's 30 training patients are all ill, and of its 16 held-out ones all but one: one is .063.",
            "The split is the same with every seed: deviations are of training, not of which patients are held out.",
        ],
    )


if __name__ == "__main__":
    real_peers.in_words(main)
