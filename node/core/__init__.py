"""The node's logic, pure: gossip, ledger and round joined into one machine, and the parts that join them.

`node` routes events and settles what should happen next; each other file is one duty of a peer and its whole memory:

- `myself`: who this site is to the others, and which keys it holds;
- `agreement`: its part in the consensus of the epoch at hand;
- `voice`: what it says, once and never otherwise, even if its disk is an old copy;
- `pursuit`: following blocks that it missed, and serving those that others missed;
- `forkwatch`: noticing that there are two histories;
- `charges`: putting on record who contradicted itself;
- `reception`: guests, and members that were let go;
- `appraisal`: what it finds the others' work to be worth, where the charter asks for that;
- `telling`: words and figures for people.

Parts know `myself`, the ledger and the links, and never the machine that holds them.
"""

from node.core.node import SNAPSHOT_BLOCKS, SOFTWARE, Node, needs

__all__ = ["SNAPSHOT_BLOCKS", "SOFTWARE", "Node", "needs"]
