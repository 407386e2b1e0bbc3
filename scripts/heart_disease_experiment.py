"""The four real hospitals of UCI Heart Disease, beside FLamby's published figures.

    python scripts/heart_disease_experiment.py FOLDER [--seeds 1 2 3] [--rounds 20]

FOLDER holds the four processed.*.data files. FLamby's cleaning and split (Ogier du Terrail et al. 2022,
Fed-Heart-Disease); logistic regression; four real peers as processes. Prints each hospital's accuracy with its count of
held-out patients. FLamby feeds raw features; here they are brought to one scale by constants agreed in advance.
Published client means: FedAvg .685, pooled .735, best federated (FedAdagrad, FedYogi) .731.
"""

import argparse
import pathlib
import tempfile
import time

import node.examples
from node.cli.ledger.reading import verify_quietly
from node.data import write_heart_disease
from node.local import fork_server, found, stop_all
from swarm.ledger.entry import METRIC_SCALE


def main() -> None:
    """Run the experiment for each seed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=20)
    chosen = options.parse_args()
    task = pathlib.Path(node.examples.__file__).parent / "heart_disease.py"
    means = []
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as name, fork_server() as server:
            folder = pathlib.Path(name)
            sites = write_heart_disease(chosen.folder, folder / "data")
            terms = {"metrics": ("accuracy",), "patience_s": 60}
            peers = found(folder, sites, task, rounds=chosen.rounds, seed=seed, forkserver=server, **terms)
            try:
                for peer in peers:
                    peer.start()
                while not all(peer.done for peer in peers):
                    time.sleep(0.5)
                    for peer in peers:
                        peer.poll()
                        assert peer.up, peer.log_tail(20)
            finally:
                stop_all(peers)
            audit = verify_quietly(peers[0].site.folder)
        last = audit.rounds[audit.state.committed.round]
        cells, scores, right, total = [], [], 0.0, 0
        for card in audit.state.signed.charter.members:
            scored = last.evaluations[card.node]
            accuracy = scored.metrics[0][1] / METRIC_SCALE
            scores.append(accuracy)
            right, total = right + accuracy * scored.samples, total + scored.samples
            cells.append(f"{card.name} {accuracy:.3f} (n={scored.samples})")
        means.append(sum(scores) / len(scores))
        print(
            f"seed {seed}: {'  '.join(cells)}  client mean {means[-1]:.3f}  all patients {right / total:.3f}",
            flush=True,
        )
    print(f"client mean over {len(means)} seeds: {sum(means) / len(means):.3f}   (FLamby: FedAvg .685, pooled .735)")


if __name__ == "__main__":
    main()
