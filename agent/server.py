"""The WebSocket listener: who gets in, how much a connection may cost, and how it all ends.

Knows no events but the one that refuses; a conversation is a `Session`, which is given a way to send.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from agent.config import AgentConfig, VoiceConfig
from agent.ear import EarLimits
from agent.errors import AgentError, SessionOver
from agent.protocol import server_events as events
from agent.protocol.errors import ProtocolError
from agent.protocol.handshake import BETA_HEADER, Handshake
from agent.protocol.settings import SessionSettings, TurnDetection
from agent.responses import ReplyOptions
from agent.session import Session, SessionOptions
from agent.speaking import SpeechOptions
from agent.tool_calls import find_tool_caller
from agent.vad import Vad, WebRtcVad
from agent.voice import Voice, find_voice
from wavllm_core.engine.api import Engine, Sampling
from wavllm_core.errors import CapacityError, CoreError

PATH: Final = "/v1/realtime"
HEALTH_PATH: Final = "/healthz"
SUBPROTOCOL: Final = Subprotocol("realtime")  # what browsers offer
GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013
PING_S: Final = 20
PONG_S: Final = 60  # a busy client is not a dead one
CLOSE_S: Final = 2
WAITING_MESSAGES: Final = 4  # received, not yet taken by the session
WRITE_BUFFER_BYTES: Final = 2**16

log = logging.getLogger(__name__)


async def serve(
    config: AgentConfig,
    engine: Engine,
    *,
    on_ready: Callable[[int], None] | None = None,
    make_vad: Callable[[float], Vad] = WebRtcVad,
    make_voice: Callable[[VoiceConfig], Voice | None] = find_voice,
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; when this returns, no connection is left.

    The engine stays open: it is its builder's. `on_ready` is told the port.
    Raises AgentError when the address cannot be had.
    """
    frontdoor = Frontdoor(config, engine, build_options(config, make_vad, make_voice))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        server = await frontdoor.open()
    except OSError as error:
        address = f"{config.server.host}:{config.server.port}"
        raise AgentError(f"cannot listen on {address}: {error.strerror or error}") from error
    async with server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        try:
            if on_ready:
                on_ready(next(iter(server.sockets)).getsockname()[1])
            await stopped.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def build_options(
    config: AgentConfig, make_vad: Callable[[float], Vad], make_voice: Callable[[VoiceConfig], Voice | None]
) -> SessionOptions:
    """What a configuration means for a session."""
    turns, reply = config.turns, config.reply
    detection = TurnDetection(
        turns.threshold,
        turns.prefix_padding_ms,
        turns.silence_duration_ms,
        turns.create_response,
        turns.interrupt_response,
    )
    voice = make_voice(config.voice)
    speech = SpeechOptions(voice, config.voice.timeout_ms / 1000, config.voice.lead_ms / 1000) if voice else None
    caller = find_tool_caller(config.model.checkpoint)
    return SessionOptions(
        settings=SessionSettings(
            reply.instructions,
            turn_detection=detection,
            voice=voice.name if voice else None,
            calls_tools=caller is not None,
        ),
        replies=ReplyOptions(Sampling(reply.max_tokens, reply.temperature), speech, caller),
        ear=EarLimits(turns.max_utterance_ms, turns.max_manual_ms, make_vad),
        same_speaker_similarity=config.speakers.same_speaker_similarity,
        version=_version(),
        lifetime_s=config.server.session_s,
    )


class Frontdoor:
    """Lets clients in, one session each."""

    def __init__(self, config: AgentConfig, engine: Engine, options: SessionOptions) -> None:
        self._limits, self._engine, self._options = config.server, engine, options
        self._sessions = 0

    async def open(self) -> Server:
        """Listen. Raises OSError when the address cannot be had."""
        return await listen(
            self._welcome,
            self._limits.host,
            self._limits.port,
            process_request=self._answer_http,
            select_subprotocol=_select_subprotocol,
            compression=None,  # audio in base64 shrinks little and costs much
            max_size=self._limits.max_message_bytes,
            max_queue=WAITING_MESSAGES,
            write_limit=WRITE_BUFFER_BYTES,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
            close_timeout=CLOSE_S,
        )

    async def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """None lets the WebSocket handshake go on."""
        path = urlsplit(request.path).path
        if path == PATH:
            return None
        if path != HEALTH_PATH:
            return connection.respond(404, f"there is {PATH} and {HEALTH_PATH}\n")
        health: dict[str, Any] = {"status": "ok", "sessions": self._sessions}
        try:
            health["engine"] = asdict(await self._engine.load_figures())
        except CoreError as error:
            health["status"] = str(error)
        response = connection.respond(200 if "engine" in health else 503, json.dumps(health))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    async def _welcome(self, connection: ServerConnection) -> None:
        if self._sessions >= self._limits.max_sessions:
            await _refuse(connection, f"the server is full: it holds {self._limits.max_sessions} sessions")
            return
        self._sessions += 1
        try:
            await self._converse(connection)
        except* CapacityError as full:
            await _refuse(connection, str(full.exceptions[0]))
        except* ConnectionClosed:
            pass  # the client is gone, and all that was done for it has ended
        except* Exception:
            log.exception("connection failed")
            await _close(connection, INTERNAL_ERROR, "internal error")
        finally:
            self._sessions -= 1

    async def _converse(self, connection: ServerConnection) -> None:
        """Hold one conversation; no task outlives this call."""

        async def send(text: str) -> None:
            try:
                async with asyncio.timeout(self._limits.send_timeout_s):
                    await connection.send(text)
            except TimeoutError:
                await _close(connection, POLICY_VIOLATION, "the client reads too slowly")

        async def converse() -> None:
            try:
                await session.run()
            except* SessionOver as over:
                await _close(connection, GOING_AWAY, str(over.exceptions[0]))

        async def read() -> None:
            async for message in connection:
                await session.receive(message)

        assert connection.request
        query, beta = urlsplit(connection.request.path).query, connection.request.headers.get_all(BETA_HEADER)
        handshake = Handshake.read(query, beta)
        with closing(Session(self._engine, self._options, send, handshake=handshake)) as session:
            log.info("%s opened", session.id)
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(converse(), name=f"converse {session.id}"),
                    tasks.create_task(read(), name=f"read {session.id}"),
                ]
                await connection.wait_closed()
                for task in running:
                    task.cancel()
        log.info("%s closed: %s %s", session.id, connection.close_code, connection.close_reason)


async def _refuse(connection: ServerConnection, why: str) -> None:
    error = ProtocolError("server_full", why)
    with suppress(ConnectionClosed):
        await connection.send(events.encode(events.error(error, kind="server_error")))
    await _close(connection, TRY_AGAIN_LATER, why)


async def _close(connection: ServerConnection, code: int, reason: str) -> None:
    """Say goodbye; hang up on a client that does not even take that, on which `close` alone would wait."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await connection.close(code, reason)
    except TimeoutError:
        connection.transport.abort()


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def _version() -> str:
    try:
        return version("wavllm-agent")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
