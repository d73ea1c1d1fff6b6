"""The server under attack, and sockets to it."""

import asyncio
import socket
import time
from dataclasses import dataclass

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Target:
    """What an attack needs to know.

    Args:
        port: of the server.
        model: its name in requests.
        places: texts that the server generates or queues at once.
        end: when the attack ends, in seconds of ``time.monotonic``.
    """

    port: int
    model: str
    places: int
    end: float

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    async def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a non-blocking connection. Raises OSError."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (ADDRESS, self.port))
        except OSError:
            connection.close()
            raise
        return connection

    async def send(self, connection: socket.socket, data: bytes) -> bool:
        """Send ``data`` until the end of the attack. Returns whether the server took all of it."""
        try:
            async with asyncio.timeout(max(self.end - time.monotonic(), 0)):
                await asyncio.get_running_loop().sock_sendall(connection, data)
        except (OSError, TimeoutError):
            return False
        return True

    async def read_to_end(self, connection: socket.socket) -> bytes:
        """Return what the server sends until it closes the connection, or until the end of the attack."""
        content, loop = bytearray(), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(self.end - time.monotonic(), 0)):
                while data := await loop.sock_recv(connection, 2**18):
                    content += data
        except (OSError, TimeoutError):
            pass
        return bytes(content)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection from which nothing was read."""
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return True
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def post(path: str, body: bytes, *, close: bool = False) -> bytes:
    """Return a request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nContent-Type: application/json\r\n"
    head += "Connection: close\r\n" if close else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
