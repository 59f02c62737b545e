"""A proxy that loses acknowledgements: it passes a conditional PUT on, and of those the server applied, hides some from the client.

``python ack_proxy.py http://127.0.0.1:PORT SEED SHARE`` prints its own address and serves until its standard input ends. Of the
conditional PUTs (``If-None-Match``) that the server has applied, a share (drawn from the seed) is answered by a cut connection
or, as often, by a 503. Everything else passes through unchanged. ``GET /_hidden`` tells how many were hidden, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Message:
    """A request or an answer: its first line, its headers (names in small letters), and its body as it came."""

    first: bytes
    headers: dict[bytes, bytes]
    raw_head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.raw_head + self.body


async def read_message(
    stream: asyncio.StreamReader, *, bodyless: bool = False, waiting: asyncio.StreamWriter | None = None
) -> Message | None:  # fmt: skip
    """The next message of a connection; ``None`` where it has ended.

    Args:
        bodyless: it is the answer to a HEAD.
        waiting: a client, which may hold its body back until it is told to go on.
    """
    try:
        head = await stream.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head[:-4].split(b"\r\n")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines)}
    if waiting is not None and headers.pop(b"expect", b"").lower() == b"100-continue":
        waiting.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await waiting.drain()
        head = b"\r\n".join([first, *(line for line in lines if not line.lower().startswith(b"expect:")), b"", b""])
    body = b""
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower() and not bodyless:
        body = await _chunks(stream)
    elif b"content-length" in headers and not bodyless:
        body = await stream.readexactly(int(headers[b"content-length"]))
    return Message(first, headers, head, body)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _chunks(stream: asyncio.StreamReader) -> bytes:
    out = b""
    while True:
        line = await stream.readuntil(b"\r\n")
        out += line + await stream.readexactly(int(line.split(b";")[0], 16) + 2)
        if int(line.split(b";")[0], 16) == 0:
            return out


@dataclass
class Proxy:
    """One proxy before one server."""

    host: str
    port: int
    rng: random.Random
    share: float
    counts: dict[str, int] = field(default_factory=lambda: {"requests": 0, "conditional": 0, "lost": 0, "cut": 0, "503": 0})

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """One client's connection; each request goes to the server on a fresh one."""
        try:
            while (request := await read_message(client, waiting=answer)) is not None:
                if request.first.startswith(b"GET /_hidden "):
                    self._answer(answer, 200, json.dumps(self.counts).encode())
                elif not await self._forward(request, answer):
                    break
                await answer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await _close(answer)

    async def _forward(self, request: Message, answer: asyncio.StreamWriter) -> bool:
        """Ask the server, and tell the client, or not; False when the connection is to end."""
        self.counts["requests"] += 1
        server, to_server = await asyncio.open_connection(self.host, self.port)
        to_server.write(request.raw)
        got = await read_message(server, bodyless=request.first.startswith(b"HEAD "))
        await _close(to_server)
        if got is None:
            return False
        if request.first.startswith(b"PUT ") and b"if-none-match" in request.headers:
            self.counts["conditional"] += 1
            applied = got.first.split()[1] == b"200"
            self.counts["lost"] += not applied
            if applied and self.rng.random() < self.share:
                how = self.rng.choice(["cut", "503"])
                self.counts[how] += 1
                if how == "cut":
                    answer.transport.abort()
                    return False
                self._answer(answer, 503, _SLOW_DOWN)
                return True
        answer.write(got.raw)
        return got.headers.get(b"connection", b"").lower() != b"close"

    @staticmethod
    def _answer(to: asyncio.StreamWriter, status: int, body: bytes) -> None:
        to.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\nContent-Type: application/xml\r\n\r\n%s" % (status, len(body), body))


async def run(server: str, seed: int, share: float) -> None:
    """Serve until standard input ends."""
    at = urlsplit(server)
    proxy = Proxy(at.hostname or "", at.port or 0, random.Random(seed), share)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
