"""Write tests/vectors/accounting.json: what dp-accounting says of some runs. It needs an environment of its own.

dp-accounting holds attrs below 24, so it is in no extra of this project:

    python3 -m venv /tmp/dpa && /tmp/dpa/bin/pip install dp-accounting==0.6.0
    /tmp/dpa/bin/python scripts/accounting_vectors.py > tests/vectors/accounting.json
"""

import json

import dp_accounting as dpa
from dp_accounting import rdp
from dp_accounting.pld import PLDAccountant

RUNS = (
    (((256 / 60000, 1.0, 2350),), 1e-5),
    (((256 / 60000, 1.1, 14062),), 1e-5),
    (((0.01, 4.0, 10000),), 1e-5),  # Abadi et al. 2016, section 3.2
    (((1.0, 5.0, 1),), 1e-6),
    (((1.0, 10.0, 50),), 1e-5),
    (((0.05, 0.6, 20),), 1e-4),
    (((0.001, 0.7, 20000),), 1e-7),
    (((0.3, 3.0, 100), (0.02, 1.2, 500)), 1e-5),
)


def main() -> None:
    """Print the vectors."""
    rows = []
    for steps, delta in RUNS:
        event = dpa.ComposedDpEvent(
            [
                dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise)), many)
                for rate, noise, many in steps
            ]
        )
        tight = PLDAccountant(dpa.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4)
        loose = rdp.RdpAccountant()
        said = [accountant.compose(event).get_epsilon(delta) for accountant in (tight, loose)]
        rows.append({"steps": steps, "delta": delta, "pld": said[0], "rdp": said[1]})
    print(json.dumps({"made_by": "scripts/accounting_vectors.py, dp-accounting 0.6.0", "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
