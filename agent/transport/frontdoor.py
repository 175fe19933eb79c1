"""The door: who is let in, what else can be asked over HTTP, and how every conversation ends.

Knows no events but the one that refuses; a conversation is a `Session`, which is given a way to send.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from agent.config import ServerConfig
from agent.errors import RecordingError, SessionOver
from agent.protocol import server_events as events
from agent.protocol.errors import ProtocolError
from agent.protocol.handshake import BETA_HEADER, Handshake
from agent.sessions.mailbox import LiveMailbox
from agent.sessions.recording import Recorder
from agent.sessions.session import Session, SessionOptions
from agent.transport.access import Access, Refused
from agent.transport.admission import Admission, Seat
from agent.transport.metrics import Metrics, Observer
from agent.transport.wire import CLOSE_S, GOING_AWAY, INTERNAL_ERROR, TRY_AGAIN_LATER, Wire, WireLimits
from agent.web.pages import HEADERS, Page, read_pages
from wavllm_core.engine.api import Engine
from wavllm_core.errors import CapacityError, CoreError

PATH: Final = "/v1/realtime"
HEALTH_PATH: Final = "/healthz"
SUBPROTOCOL: Final = Subprotocol("realtime")  # what browsers offer
READY_PATH: Final = "/readyz"
METRICS_PATH: Final = "/metrics"
SETTLED_S: Final = 0.05  # between looks at conversations that are to end
WAITING_MESSAGES: Final = 4  # received, not yet taken by the session
PRIVATE_CODES: Final = 3000  # and above: clients make them up, so they are counted together
WRITE_BUFFER_BYTES: Final = 2**16

log = logging.getLogger(__name__)


class Guest(ServerConnection):
    """A connection that is counted from its first packet on."""

    connections: set[ServerConnection]  # of this server; set in a class of its own
    most: int

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connections.add(self)
        if len(self.connections) > self.most:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        super().connection_lost(exc)


class Frontdoor:
    """Lets clients in, one session each."""

    def __init__(
        self,
        limits: ServerConfig,
        engine: Engine,
        options: SessionOptions,
        access: Access,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._limits, self._engine, self._options = limits, engine, options
        self._tls = tls
        self._admission = Admission(access, limits.max_sessions, limits.messages_per_s)
        self._wire_limits = WireLimits(limits.send_timeout_s, limits.ping_s, limits.pong_s)
        self._seats: dict[ServerConnection, Seat] = {}
        self._metrics = Metrics()
        self._pages = read_pages() if limits.page else {}
        self._metrics.sessions.set_function(lambda: len(self._seats))

    async def open(self) -> Server:
        """Listen. Raises OSError when the address cannot be had."""
        guest = type("Guest", (Guest,), {"connections": set(), "most": self._limits.max_connections})
        logging.getLogger("websockets.server").addFilter(_is_our_fault)
        return await listen(
            self._welcome,
            self._limits.host,
            self._limits.port,
            process_request=self._answer_http,
            select_subprotocol=_select_subprotocol,
            create_connection=guest,
            compression=None,  # audio in base64 shrinks little and costs much
            open_timeout=self._limits.handshake_timeout_s,
            max_size=self._limits.max_message_bytes,
            max_queue=WAITING_MESSAGES,
            write_limit=WRITE_BUFFER_BYTES,
            ping_interval=None,  # a wire watches itself
            close_timeout=CLOSE_S,
            ssl=self._tls,
            ssl_handshake_timeout=self._limits.handshake_timeout_s if self._tls else None,
        )

    async def drain(self) -> None:
        """Take in nobody more; end every conversation when nothing in it is under way, or in time."""
        self._admission.closed = True
        log.info("stopping: %d sessions may finish their replies within %g s", len(self._seats), self._limits.drain_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain_s), asyncio.TaskGroup() as tasks:
                told: set[Seat] = set()
                while self._seats:
                    for seat in set(self._seats.values()) - told:
                        if seat.wire and seat.session and seat.session.settled:
                            told.add(seat)
                            tasks.create_task(seat.wire.close(GOING_AWAY, "the server stops"), name="say goodbye")
                    await asyncio.sleep(SETTLED_S)

    async def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """None lets the WebSocket handshake go on."""
        path = request.path.partition("?")[0]
        try:
            match path:
                case _ if path == PATH:
                    self._take_seat(connection, request.headers)
                    return None
                case _ if path == HEALTH_PATH:
                    return await self._health(connection)
                case _ if path == READY_PATH:
                    await self._check_ready()
                    return _answer(connection, 200, {"status": "ready"})
                case _ if path == METRICS_PATH:
                    self._admission.access.check(request.headers)
                    return await self._render_metrics(connection)
                case _ if path in self._pages:
                    return _show(connection, self._pages[path])
        except Refused as refused:
            self._metrics.refusals.labels(refused.code).inc()
            error = ProtocolError(refused.code, refused.message)
            kind = "server_error" if refused.status == 503 else "invalid_request_error"
            return _answer(connection, refused.status, events.error(error, kind=kind), refused.headers)
        page = "/, " if self._pages else ""
        paths = f"there is {page}{PATH}, {HEALTH_PATH}, {READY_PATH} and {METRICS_PATH}\n"
        return connection.respond(404, paths)

    def _take_seat(self, connection: ServerConnection, headers: Headers) -> None:
        """Raises Refused when there is none for this client."""
        if [value.lower() for value in headers.get_all("Upgrade")] != ["websocket"]:
            return  # the handshake itself refuses that
        seat = self._seats[connection] = self._admission.admit(headers)

        def leave_unseen(_: object) -> None:
            if seat.wire is None:  # the handshake came to nothing
                self._leave(connection)

        connection.connection_lost_waiter.add_done_callback(leave_unseen)

    def _leave(self, connection: ServerConnection) -> None:
        self._admission.seats.discard(self._seats.pop(connection))

    async def _check_ready(self) -> None:
        self._admission.check_room()
        try:
            await self._engine.load_figures()
        except CoreError as error:
            raise Refused(503, "engine_failed", str(error)) from error

    async def _health(self, connection: ServerConnection) -> Response:
        health: dict[str, Any] = {"status": "ok", "sessions": len(self._seats)}
        try:
            health["engine"] = (await self._engine.load_figures()).numbers()
        except CoreError as error:
            health["status"] = str(error)
        return _answer(connection, 200 if "engine" in health else 503, health)

    async def _render_metrics(self, connection: ServerConnection) -> Response:
        try:
            self._metrics.load = await self._engine.load_figures()
        except CoreError:
            self._metrics.load = None
        response = connection.respond(200, self._metrics.render().decode())
        _set_type(response, CONTENT_TYPE_LATEST)
        return response

    async def _welcome(self, connection: ServerConnection) -> None:
        seat = self._seats[connection]
        seat.wire = wire = Wire(connection, self._wire_limits, seat.bucket, self._metrics.throttled.inc)
        try:
            await self._converse(connection, seat, wire)
        except* CapacityError as full:
            error = ProtocolError("server_full", why := str(full.exceptions[0]))
            with suppress(ConnectionClosed):
                await wire.send(events.encode(events.error(error, kind="server_error")))
            await wire.close(TRY_AGAIN_LATER, why)
        except* ConnectionClosed:
            pass  # the client is gone, and all that was done for it has ended
        except* Exception:
            log.exception("connection failed")
            await wire.close(INTERNAL_ERROR, "internal error")
        finally:
            self._leave(connection)
            code = connection.close_code
            self._metrics.closed.labels("private" if code and code >= PRIVATE_CODES else code).inc()

    async def _converse(self, connection: ServerConnection, seat: Seat, wire: Wire) -> None:
        """Hold one conversation; no task outlives this call."""

        async def converse() -> None:
            try:
                await session.run()
            except* SessionOver as over:
                await wire.close(GOING_AWAY, str(over.exceptions[0]))

        async def read() -> None:
            async for message in wire.messages():
                await session.receive(message)

        assert connection.request
        query, beta = urlsplit(connection.request.path).query, connection.request.headers.get_all(BETA_HEADER)
        handshake, observer = Handshake.read(query, beta), Observer(self._metrics)
        with ExitStack() as stack:
            session = stack.enter_context(closing(self._open_session(stack, wire, handshake, observer)))
            seat.session = session
            log.info("%s opened%s", session.id, f" with the key {seat.key.name}" if seat.key else "")
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(converse(), name=f"converse {session.id}"),
                    tasks.create_task(read(), name=f"read {session.id}"),
                    tasks.create_task(wire.watch(), name=f"watch {session.id}"),
                ]
                await connection.wait_closed()
                for task in running:
                    task.cancel()
        log.info("%s closed: %s %s", session.id, connection.close_code, connection.close_reason)

    def _open_session(self, stack: ExitStack, wire: Wire, handshake: Handshake, observer: Observer) -> Session:
        """A session, recorded where the operator wants that until `stack` is closed."""
        parts: dict[str, Any] = {"handshake": handshake, "observe": observer}
        if (folder := self._limits.recordings) is None:
            return Session(self._engine, self._options, wire.send, **parts)
        try:
            recorder = stack.enter_context(closing(Recorder(folder, handshake)))
        except RecordingError as error:
            log.warning("a session is not recorded: %s", error)
            return Session(self._engine, self._options, wire.send, **parts)
        send, mailbox = recorder.sending(wire.send), LiveMailbox(recorder.clock, recorder.took)
        parts |= {"mailbox": mailbox, "wall_clock": lambda: recorder.began_s, "new_id": recorder.names}
        return Session(self._engine, self._options, send, **parts)


def _answer(
    connection: ServerConnection, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """JSON over HTTP."""
    response = connection.respond(status, json.dumps(body) + "\n")
    _set_type(response, "application/json")
    response.headers.update(headers or {})
    return response


def _show(connection: ServerConnection, page: Page) -> Response:
    response = connection.respond(200, page.text)
    _set_type(response, page.content_type)
    response.headers.update(HEADERS)
    return response


def _set_type(response: Response, content_type: str) -> None:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = content_type


def _is_our_fault(record: logging.LogRecord) -> bool:
    """False for handshakes that strangers spoil: probes that only connect, scans of ports, those above the limit.

    Each would leave a traceback, whenever it comes.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], InvalidHandshake | ConnectionError))


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None
