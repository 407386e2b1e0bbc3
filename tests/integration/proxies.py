"""Small real proxies on loopback: SOCKS5 with and without a password, and HTTP CONNECT that can misbehave."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from typing import Any


def splice(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes on both ways until one end is gone."""
    with contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select([one, other], [], [], 60.0)
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that notes whom it was asked for. `names` resolves what nobody else can."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler], *, user: str = "", password: str = "") -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.user, self.password = user, password
        self.asked: list[str] = []
        self.names: Mapping[str, str] = {}
        self.answer = b""
        self.silent = False
        self.open: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def drop(self) -> None:
        """Cut every connection that goes through."""
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.open.clear()


class Connect(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        server: Proxy = self.server
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(4096)
            if not line:
                return
            head += line
        target = head.split(b" ")[1].decode()
        server.asked.append(target)
        if server.silent:
            threading.Event().wait(60)
        wanted = base64.b64encode(f"{server.user}:{server.password}".encode())
        if server.user and b"\r\nProxy-Authorization: Basic " + wanted + b"\r\n" not in head:
            self.wfile.write(
                b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n'
            )
            return
        if server.answer:
            self.wfile.write(server.answer)
            return
        host, _, port = target.rpartition(":")
        try:
            far = socket.create_connection((server.names.get(host, host.strip("[]")), int(port)), 5)
        except OSError:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
        server.open += [self.connection, far]
        with far:
            splice(self.connection, far)


class Socks5(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        server: Proxy = self.server
        _, count = self.rfile.read(2)
        methods = self.rfile.read(count)
        method = 2 if server.user else 0
        if method not in methods:
            self.wfile.write(b"\x05\xff")
            return
        self.wfile.write(bytes((5, method)))
        if server.user:
            _, length = self.rfile.read(2)
            user = self.rfile.read(length).decode()
            password = self.rfile.read(self.rfile.read(1)[0]).decode()
            good = (user, password) == (server.user, server.password)
            self.wfile.write(bytes((1, not good)))
            if not good:
                return
        _, _, _, kind = self.rfile.read(4)
        match kind:
            case 1:
                host = socket.inet_ntoa(self.rfile.read(4))
            case 4:
                host = socket.inet_ntop(socket.AF_INET6, self.rfile.read(16))
            case _:
                host = self.rfile.read(self.rfile.read(1)[0]).decode()
        port = int.from_bytes(self.rfile.read(2), "big")
        server.asked.append(f"{host}:{port}")
        if server.silent:
            threading.Event().wait(60)
        if server.answer:
            self.wfile.write(server.answer)
            return
        try:
            far = socket.create_connection((server.names.get(host, host), port), 5)
        except OSError:
            self.wfile.write(b"\x05\x05\x00\x01" + bytes(6))
            return
        self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
        server.open += [self.connection, far]
        with far:
            splice(self.connection, far)


@contextlib.contextmanager
def running(handler: type[socketserver.BaseRequestHandler], *, user: str = "", password: str = "") -> Iterator[Proxy]:
    """Run a proxy as long."""
    with Proxy(handler, user=user, password=password) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.drop()
            proxy.shutdown()
