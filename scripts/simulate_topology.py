"""Try topologies before you deploy one: `swarm simulate` under another name, for whoever looks in scripts/ first."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from node.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "simulate")
    main.main()
