"""SHELL. The site's proxy: what the settings say of it, and a door to it.

libzmq 4.3.5 can dial through SOCKS5 by itself, but once a proxy has refused it, closing the socket aborts the whole
process (decision 0025); and HTTP's CONNECT (RFC 9110, 9.3.6), which most proxies of hospitals speak, it does not know.
So for each endpoint it knocks at a Unix socket of this process, and the door behind that asks the proxy, of either
kind, for the connection and passes bytes on. They are sealed by CURVE before they come here; neither door nor proxy can
read them.

The sockets lie in a folder that only this user can enter. The door runs on a thread of its own and shares nothing with
the loop but a queue of incidents.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import queue
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossip.zeromq import Incident
from node.clock import Clock
from node.config import NetworkSettings
from swarm.errors import UsageError

ANSWER_S = 20.0
"""For the proxy to connect. Its own attempt to reach a far host may take some ten."""

HEAD_BYTES_MAX = 16 << 10
"""Of the proxy's answer. Nothing but its first line is used."""

BUFFER_BYTES = 64 << 10
"""Read at a time, each way."""

DOORS_MAX = 1024
"""Connections at a time. Every one is a link of this site or an attempt at one."""

INCIDENT_S = 60.0
"""The same trouble is told once in this time."""

_PROXY = re.compile(r"([a-z0-9]+)://(?:([^@/\s]*)@)?(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):(\d{1,5})/?", re.ASCII)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r?\n")
_EXAMPLE = 'write it as "socks5://proxy.example:1080" or "http://user@proxy.example:3128"'

_SOCKS_REPLIES = {
    1: "failed",
    2: "forbids it: ask for this host and port to be allowed",
    3: "finds no way to that network",
    4: "finds no such host",
    5: "gets no answer from there: nothing listens",
    6: "gives up: the way is too long",
    7: "does not connect for anybody",
    8: "knows no addresses of this kind",
}
"""RFC 1928 section 6."""


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy as the settings have it. `kind` is "socks5" or "http"; `address` "host:port", IPv6 in brackets."""

    kind: str
    address: str
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.kind}://{self.address})"


def read_proxy(settings: NetworkSettings, folder: Path) -> Proxy | None:
    """Return the proxy that a site's settings name, or None. A password's file is relative to the site's `folder`.

    Raises:
        UsageError: the address is none, names a password itself, or the file cannot be read.
    """
    if not settings.proxy:
        return None
    match = _PROXY.fullmatch(settings.proxy)
    shown = re.sub(r"//[^/]*@", "//...@", settings.proxy)  # There may be a password in it after all.
    if match is None or not 1 <= int(match[4]) <= 65_535 or match[1] not in ("socks5", "http"):
        raise UsageError(f"couldn't use network.proxy {shown!r}: it is no proxy that can be used here", hint=_EXAMPLE)
    kind, username, host, port = match[1], match[2] or "", match[3], match[4]
    if ":" in username:
        raise UsageError(
            f"couldn't use network.proxy {shown!r}: a password stands in it, for everybody to see",
            hint="leave only the user there, and put the password in a file that network.proxy_password_file names",
        )
    password = _read_password(settings.proxy_password_file, folder) if username else ""
    if any(len(word.encode()) > 255 for word in (username, password)):  # RFC 1929 section 2
        raise UsageError(
            f"couldn't use network.proxy {shown!r}: its user or password is above 255 bytes", hint=_EXAMPLE
        )
    return Proxy(kind, f"{host}:{port}", username, password)


def _read_password(name: str, folder: Path) -> str:
    if not name:
        return ""
    path = folder / name
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"couldn't read the proxy's password in {path}: {why}", hint="name a file whose first line is the password"
        ) from None


@contextlib.contextmanager
def dialling(proxy: Proxy | None) -> Iterator[Door | None]:
    """Yield the door to a proxy, if there is one; it is open as long."""
    if proxy is None:
        yield None
        return
    door = Door(proxy)
    door.open()
    try:
        yield door
    finally:
        door.close()


class _Refused(Exception):
    """The proxy does not connect us."""

    def __init__(self, event: str, text: str) -> None:
        super().__init__(text)
        self.event, self.text = event, text


class Door:
    """Unix sockets, one for each endpoint that is dialled; behind each the proxy. One thread opens, asks and closes.

    Args:
        proxy: where it leads.
        answer_s: how long the proxy may take to connect.
    """

    def __init__(self, proxy: Proxy, answer_s: float = ANSWER_S) -> None:
        self._proxy, self._answer_s = proxy, answer_s
        self._clock = Clock()
        self._incidents: queue.SimpleQueue[Incident] = queue.SimpleQueue()
        self._told: dict[str, float] = {}
        self._ways: dict[str, str] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None

    def open(self) -> None:
        """Begin."""
        # Not in the site's folder: the path of a socket may have no more than about a hundred characters.
        self._folder = Path(tempfile.mkdtemp(prefix="swarm-"))
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._stay(ready)), name="proxy", daemon=True)
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        """Hang up on everybody."""
        if self._thread is not None and self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
            self._thread = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def way(self, endpoint: str) -> str:
        """Return where to knock to get to an endpoint, "tcp://host:port"."""
        assert self._loop is not None, "opened before it is asked"
        if endpoint not in self._ways:
            asked = asyncio.run_coroutine_threadsafe(self._listen(endpoint.removeprefix("tcp://")), self._loop)
            self._ways[endpoint] = asked.result()
        return self._ways[endpoint]

    def incidents(self) -> Sequence[Incident]:
        """Return what has happened since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._incidents.get_nowait())
        return found

    # --- on the door's own thread -----------------------------------------------------------------------------------

    async def _stay(self, ready: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._ended.wait()
        # A connection may be on its way in. What takes it in is a task of the loop's, which leaves its socket open if
        # the server is closed meanwhile: first the last of them, then the servers, in one step.
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(rest)
        for server in self._servers:
            server.close()

    async def _listen(self, target: str) -> str:
        assert self._folder is not None, "opened before"
        path = self._folder / str(len(self._ways))

        def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(target, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: writer.close())  # One that is cancelled before it begins closes nothing.

        self._servers.append(await asyncio.start_unix_server(enter, path))
        return f"ipc://{path}"

    async def _serve(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            if len(self._tasks) > DOORS_MAX:
                return
            far_reader, far = await self._connect(target)
            # When one side is done, so is the other: ZMTP has no half of a conversation.
            both = [asyncio.create_task(_pump(*way)) for way in ((reader, far), (far_reader, writer))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except _Refused as refusal:
            self._tell(refusal.event, refusal.text)
        finally:
            await _close(far)
            await _close(writer)

    def _tell(self, event: str, text: str) -> None:
        now = self._clock.now()
        if now >= self._told.get(text, 0.0) + INCIDENT_S:
            self._told = {text: at for text, at in self._told.items() if now < at + INCIDENT_S} | {text: now}
            self._incidents.put(Incident(peer=None, event=event, text=text))

    async def _connect(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask the proxy for a connection. Raises `_Refused` in words."""
        proxy = self._proxy
        host, _, port = proxy.address.rpartition(":")
        named = f"couldn't reach {target}: the proxy {proxy.address}"
        writer: asyncio.StreamWriter | None = None
        refusal: _Refused | None = None
        try:
            async with asyncio.timeout(self._answer_s):
                reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=HEAD_BYTES_MAX)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                ask = self._ask_socks if proxy.kind == "socks5" else self._ask_http
                await ask(target, reader, writer, named)
            return reader, writer
        except TimeoutError:
            what = "takes no connection" if writer is None else "did not answer"
            refusal = _Refused("proxy_timeout", f"{named} {what} within {self._answer_s:g} s")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionResetError, BrokenPipeError):
            refusal = _Refused("proxy_failed", f"{named} hung up, or did not answer as such a proxy would")
        except OSError as error:
            refusal = _Refused("proxy_unreachable", f"{named} cannot be reached itself ({error.strerror or error})")
        except _Refused as refused:
            refusal = refused
        except asyncio.CancelledError:
            await _close(writer)
            raise
        await _close(writer)
        raise refusal

    async def _ask_http(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, named: str
    ) -> None:
        """CONNECT, with Basic credentials (RFC 7617) if there are some."""
        proxy = self._proxy
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if proxy.username:
            words = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
            request += f"Proxy-Authorization: Basic {words}\r\n"
        writer.write(request.encode() + b"\r\n")
        match = _STATUS.match(await reader.readuntil(b"\r\n\r\n"))
        if match is None:
            raise _Refused("proxy_failed", f"{named} did not answer as an HTTP proxy would")
        status = int(match[1])
        said = f"{status} {(match[2] or b'').decode('ascii', 'replace')[:60]}".strip()
        if 200 <= status < 300:
            return
        if status == 407 and proxy.username:
            why = f"does not accept the user {proxy.username} with the password it was given, by Basic ({said})"
            raise _Refused("proxy_denied", f"{named} {why}: see network.proxy_password_file")
        if status == 407:
            why = f'asks for a user ({said}): set network.proxy = "http://user@..." and network.proxy_password_file'
            raise _Refused("proxy_denied", f"{named} {why}")
        if status in (403, 405):
            why = f"forbids it ({said}): ask for CONNECT to this host and port to be allowed, without inspection"
            raise _Refused("proxy_denied", f"{named} {why}")
        if status in (502, 503, 504):
            raise _Refused("unreachable", f"{named} gets no answer from there ({said})")
        raise _Refused("proxy_failed", f"{named} answers {said}")

    async def _ask_socks(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, named: str
    ) -> None:
        """SOCKS5 (RFC 1928), with user and password (RFC 1929) if there are some. Names are the proxy's to resolve."""
        user, password = self._proxy.username.encode(), self._proxy.password.encode()
        method = 2 if user else 0
        writer.write(bytes((5, 1, method)))
        version, chosen = await reader.readexactly(2)
        if version != 5:
            raise _Refused("proxy_failed", f"{named} did not answer as a SOCKS5 proxy would")
        if chosen != method:
            what = f"does not let the user {self._proxy.username} in by a password" if user else "asks for a user"
            hint = 'set network.proxy = "socks5://user@..." and network.proxy_password_file'
            raise _Refused("proxy_denied", f"{named} {what}: {hint}")
        if user:
            writer.write(bytes((1, len(user))) + user + bytes((len(password),)) + password)
            if (await reader.readexactly(2))[1] != 0:
                why = f"does not accept the user {self._proxy.username} with the password it was given"
                raise _Refused("proxy_denied", f"{named} {why}: see network.proxy_password_file")
        host, _, port = target.rpartition(":")
        writer.write(b"\x05\x01\x00" + _socks_address(host.strip("[]")) + int(port).to_bytes(2, "big"))
        _, reply, _, kind = await reader.readexactly(4)
        length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        await reader.readexactly(length + 2)
        if reply:
            event = "proxy_denied" if reply == 2 else "unreachable"
            raise _Refused(event, f"{named} {_SOCKS_REPLIES.get(reply, f'answers {reply}')}")


def _socks_address(host: str) -> bytes:
    """Return the kind of an address, and the address (RFC 1928 section 5)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")[:255]
        return bytes((3, len(name))) + name
    return bytes((1 if address.version == 4 else 4,)) + address.packed


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on, no faster than they are taken, until one end is gone."""
    with contextlib.suppress(OSError):
        while data := await reader.read(BUFFER_BYTES):
            writer.write(data)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter | None) -> None:
    """Hang up at once: whoever is at the other end has nobody to talk to any more."""
    if writer is not None:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
