"""uvicorn's HTTP/1.1 protocol over httptools, with limits for what clients send, how slowly, and do not read.

uvicorn has limits for h11 only, and h11 is slower: it is written in Python.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from slm_serve.http.connections.close_delimited import CloseDelimitedSend
from slm_serve.http.connections.head_checks import check_headers
from slm_serve.http.connections.refusals import NO_RESPONSE, Refusal
from slm_serve.http.connections.registry import Connections
from slm_serve.http.connections.send_watch import SendWatch
from slm_serve.http.streams import ABORT_EXTENSION

LINGER_SECONDS = 1.0  # for a refused client to read why: closing at once may discard the response
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
LINGER_BYTES = 2**20
STOP_SECONDS = 2.0  # that clients get to send or take the rest when the server stops
NON_CONTENT_RATIO = 16  # bytes of a chunked body for each byte of content: chunks of one byte have six

MALFORMED = "this is not a valid HTTP/1.1 request"
PIPELINED = "too many pipelined requests; wait for answers, or open further connections"
NOT_CONTENT = "the body has more chunk headers and trailers than content; send larger chunks"


class Phase(Enum):
    """What the parser reads next."""

    IDLE = "a request"
    HEAD = "headers"
    BODY = "a body"


class HttpProtocol(HttpToolsProtocol):
    """One connection. The app's lifespan state must contain ``Connections`` as ``connections``."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections: Connections = app_state["connections"]
        self._limits = self._connections.limits
        self._phase = self._timed_phase = Phase.IDLE
        self._client_timer: asyncio.TimerHandle | None = None  # for what the client has to send
        self._send_watch = SendWatch(self, self._limits, self._on_stall)
        self._head_bytes = self._received = self._content = 0
        self._refused = self._began = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            has_room = self._connections.make_room()
            message = f"there are more than {self._limits.connections} connections; see --max_connections"
            self._connections.log.record(NO_RESPONSE if has_room else 503, message, self._client)
            if not has_room:
                self._refused = True
                self._write_response(Refusal(503, "the server has too many connections; try again soon"))
                transport.close()
                return
        self._connections.waiting[self] = None
        self._start_client_timer(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_client_timer()
        self._send_watch.stop()
        self._connections.waiting.pop(self, None)
        self._connections.blocked.pop(self, None)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the socket at once and drop what was not sent, also by the kernel. A closed one stays as it is."""
        if self not in self.connections:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    # ---- Receiving ----

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discard(data)
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
            self._check_size(len(data))
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__  # of an exception in a callback
            self._refuse(cause if isinstance(cause, Refusal) else Refusal(400, MALFORMED))
            return
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._await_client()

    def _discard(self, data: bytes) -> None:
        """Drop what a refused client still sends, and close the connection if it is too much."""
        self._received += len(data)
        if self._received > LINGER_BYTES:
            self.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._began = Phase.HEAD, True
        self._head_bytes = self._received = self._content = 0
        self._stop_client_timer()
        if self not in self._connections.blocked:
            self._send_watch.stop()
        self.scope["extensions"] = {ABORT_EXTENSION: {"abort": self.abort}}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is Phase.BODY:
            return  # a trailer, which uvicorn would add to the headers
        super().on_header(name, value)
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._phase = Phase.BODY
        version = self.parser.get_http_version()
        check_headers(version, self.headers)
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        if len(self.pipeline) > self._limits.pipelined:
            raise Refusal(400, PIPELINED)
        if version == "1.0":
            self.cycle.send = CloseDelimitedSend(self.cycle)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        self._content += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = Phase.IDLE
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it had not asked for another protocol; ``rest`` follows its headers.

        httptools drops the body of such a request. Java's HttpClient offers h2c with every first request.
        """
        if (method := self.parser.get_method()) == b"CONNECT":
            self._refuse(Refusal(400, MALFORMED))
            return
        version = self.parser.get_http_version().encode()
        headers = [(name, value) for name, value in self.headers if name not in (b"connection", b"upgrade")]
        head = b"%b %b HTTP/%b\r\n" % (method, self.url, version) + b"".join(b"%b: %b\r\n" % each for each in headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.data_received(head + b"\r\n" + rest)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        limits = self._limits
        if self._head_bytes > limits.head_bytes or len(self.headers) > limits.head_fields:
            raise self._too_large()

    def _check_size(self, size: int) -> None:
        """Bound what the parser has received of an unfinished message and keeps, or discards, without a callback."""
        if self._began:  # the message began somewhere in this data
            self._began = False
            return
        self._received += size
        if self._phase is Phase.HEAD and self._received > self._limits.head_bytes:
            raise self._too_large()
        if self._phase is Phase.BODY and self._received > self._limits.head_bytes + NON_CONTENT_RATIO * self._content:
            raise Refusal(400, NOT_CONTENT)

    def _too_large(self) -> Refusal:
        limits = f"{self._limits.head_bytes} bytes or {self._limits.head_fields} fields"
        return Refusal(431, f"the headers have more than {limits}; send fewer")

    def _await_client(self) -> None:
        """Limit the time for the rest of the message; stop the timer while a whole request is answered."""
        if self._phase is Phase.IDLE and self._is_answering:
            self._stop_client_timer()
            self._connections.waiting.pop(self, None)
        elif self._client_timer is None or self._timed_phase is not self._phase:
            body = self._phase is Phase.BODY
            self._start_client_timer(self._limits.body_seconds if body else self._limits.head_seconds)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_client_timer(self, seconds: float) -> None:
        self._stop_client_timer()
        self._timed_phase = self._phase
        self._client_timer = self.loop.call_later(seconds, self._on_client_timeout, seconds)

    def _stop_client_timer(self) -> None:
        if self._client_timer is not None:
            self._client_timer.cancel()
            self._client_timer = None

    def _on_client_timeout(self, seconds: float) -> None:
        self._client_timer = None
        if self.flow.read_paused:  # the client waits for the server
            self._start_client_timer(seconds)
        elif self._phase is Phase.IDLE:
            self.transport.close()
        else:
            part = "headers were" if self._phase is Phase.HEAD else "body was"
            self._refuse(Refusal(408, f"the {part} not complete after {seconds:g} s; send them faster"))

    # ---- Sending ----

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering:
            self._connections.waiting[self] = None
        if self._phase is Phase.BODY and self.expect_100_continue and not self._content:
            self.transport.close()  # the client may leave out the body, so the next bytes can be either
        self._send_watch.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.blocked[self] = None
        self._send_watch.stop()
        self._send_watch.start()
        self._connections.bound_unsent_bytes()

    def resume_writing(self) -> None:
        self._connections.blocked.pop(self, None)
        self._send_watch.stop()
        super().resume_writing()

    def _on_stall(self) -> None:
        self._connections.log.record(NO_RESPONSE, "it does not read its answer", self._client)
        self.abort()

    # ---- Closing ----

    def shutdown(self) -> None:
        super().shutdown()
        if self._phase is Phase.BODY:
            self._start_client_timer(min(STOP_SECONDS, self._limits.body_seconds))
        if not self._is_answering:
            self.loop.call_later(STOP_SECONDS, self.abort)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error if no other response is in progress, and close the connection."""
        self._refused, self._received = True, 0
        self._stop_client_timer()
        self._connections.log.record(refusal.status, refusal.message, self._client)
        if self.pipeline or (self._is_answering and self.cycle.response_started):
            self.abort()
            return
        if self._is_answering:  # the app waits for the rest of the body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._connections.waiting[self] = None
        self._write_response(refusal)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _write_response(self, refusal: Refusal) -> None:
        body = refusal.body(getattr(self, "url", b"").decode("latin-1"))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", body]))

    @property
    def _client(self) -> str:
        return self.client[0] if self.client else ""
