"""What each simulated process believes about its links, and how it finds out that it is wrong.

The network knows which links work; a process learns it late, as from heartbeats and handshakes, and is told by
`LinkChanged`. Frames are lost and delivered by the network alone: belief delays the news and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from swarm.machine import Event, LinkChanged, NodeId
from topologies.world.clock import Scheduler
from topologies.world.network import NetworkModel
from topologies.world.place import Connections, Place


class Links:
    """The beliefs of all `places`; `tell(place, incarnation, event)` hands over the news."""

    def __init__(
        self,
        places: Sequence[Place],
        network: NetworkModel,
        scheduler: Scheduler,
        rng: random.Random,
        tell: Callable[[Place, int, Event], None],
    ) -> None:
        self._places, self._network, self._scheduler = places, network, scheduler
        self._rng, self._tell = rng, tell

    def notice_pair(self, a: Place, b: Place) -> None:
        """Let both ends find out, each in its own time, if their link is no longer what they believe."""
        for place, peer in ((a, b.id), (b, a.id)):
            if place.machine is not None:
                self._notice(place, peer)

    def notice_all(self) -> None:
        """The same for every link there is."""
        for place in self._places:
            if place.machine is not None:
                for peer in place.peers:
                    self._notice(place, peer)

    def _notice(self, place: Place, peer: NodeId) -> None:
        """Look again later if a link is not what the process believes, unless it has become so meanwhile.

        A link must be down without a break to be noticed, as heartbeats would have it: quick flapping loses frames
        and is never announced.
        """
        actual = self._connections(place, peer)
        if actual == place.links[peer]:
            place.suspected.pop(peer, None)
            return
        _, suspected = place.suspected.get(peer, (0, None))
        if actual == suspected:
            return
        place.suspected[peer] = (self._scheduler.steps, actual)
        profile = self._network.profile
        mean_s = profile.handshake_s if actual else profile.detection_s
        after_s = mean_s * (0.5 + self._rng.random())
        self._scheduler.at(
            self._scheduler.now + after_s, self._look, place, place.incarnation, peer, self._scheduler.steps
        )

    def _look(self, place: Place, incarnation: int, peer: NodeId, since: int) -> None:
        """Tell the machine what became of a link; a process that came back is first seen to have gone."""
        if place.machine is None or place.incarnation != incarnation:
            return
        began, actual = place.suspected.get(peer, (-1, ()))
        if began != since:
            return
        del place.suspected[peer]
        believed, place.links[peer] = place.links[peer], actual
        if believed:
            self._tell(place, incarnation, LinkChanged(peer, False, "the connection was lost"))
        if actual:
            self._tell(place, incarnation, LinkChanged(peer, True, "connected"))

    def _connections(self, place: Place, peer: NodeId) -> Connections:
        """The processes of a neighbour that `place` could hear now; on fifo links both directions must be open.

        A process that stands still is not heard; itself it notices nothing.
        """
        network = self._network
        return tuple(
            (other.slot, other.incarnation, network.epoch(place.slot, other.slot))
            for other in place.peers[peer]
            if other.machine is not None
            and not other.frozen
            and network.is_open(other.slot, place.slot)
            and (not network.profile.fifo or network.is_open(place.slot, other.slot))
        )
