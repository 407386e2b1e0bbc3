"""How peers talk: messages, frames, transfers, links. Only `gossip.zeromq` touches a socket."""
