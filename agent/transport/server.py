"""The server's life: what a configuration means, from the first socket to the last signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agent.config import AgentConfig, KeyConfig, VoiceConfig
from agent.errors import AgentError, ConfigError
from agent.functions.permissions import Permissions
from agent.hearing.ear import EarLimits
from agent.hearing.vad import Vad, find_vad
from agent.protocol.interruption import Interruption
from agent.protocol.settings import SessionSettings
from agent.protocol.speakers import SpeakerSettings
from agent.protocol.turn_detection import TurnDetection
from agent.sessions.functions import FunctionOptions
from agent.sessions.nano_calls import NanoCaller
from agent.sessions.planning import ReplyOptions
from agent.sessions.session import SessionOptions
from agent.sessions.tool_calls import HermesCaller, ToolCaller, find_tool_caller
from agent.speech.speaking import SpeechOptions
from agent.speech.voice import Voice, find_voice
from agent.transport.access import build_access, build_tls
from agent.transport.frontdoor import Frontdoor
from agent.voices.speakers import SpeakerOptions
from wavllm_core.engine.api import Engine, Heard, Sampling
from wavllm_core.turn_end import find_turn_end

log = logging.getLogger(__name__)


async def serve(
    config: AgentConfig,
    engine: Engine,
    *,
    keys: Mapping[str, KeyConfig] | None = None,
    on_ready: Callable[[int], None] | None = None,
    make_vad: Callable[[float], Vad] | None = None,
    make_voice: Callable[[VoiceConfig], Voice | None] = find_voice,
    make_judge: Callable[[Path | None], Callable[[Heard], float] | None] = find_turn_end,
    speakers: SpeakerOptions = SpeakerOptions(),  # noqa: B008 - it is frozen
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; when this returns, no connection is left.

    A signal lets replies finish, a second one does not. The engine stays open: it is its builder's. `on_ready` is
    told the port. Raises AgentError when the address cannot be had, or the files for TLS.
    """
    access, tls = build_access(config.access, keys or {}), build_tls(config.access)
    options = build_options(config, make_vad or find_vad(config.turns.detector), make_voice, speakers)
    options = replace(options, judge_turn_end=make_judge(config.model.checkpoint))
    frontdoor = Frontdoor(config.server, engine, options, access, tls)
    signals: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    try:
        server = await frontdoor.open()
    except OSError as error:
        address = f"{config.server.host}:{config.server.port}"
        raise AgentError(f"cannot listen on {address}: {error.strerror or error}") from error
    async with server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, None)
        try:
            if on_ready:
                on_ready(next(iter(server.sockets)).getsockname()[1])
            await signals.get()
            async with asyncio.TaskGroup() as tasks:
                drain = tasks.create_task(frontdoor.drain(), name="drain")
                hurry = tasks.create_task(signals.get(), name="hurry")
                await asyncio.wait([drain, hurry], return_when=asyncio.FIRST_COMPLETED)
                drain.cancel()
                hurry.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def build_options(
    config: AgentConfig,
    make_vad: Callable[[float], Vad],
    make_voice: Callable[[VoiceConfig], Voice | None],
    speakers: SpeakerOptions = SpeakerOptions(),  # noqa: B008 - likewise
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
    caller = find_tool_caller(config.model.checkpoint) if config.model.checkpoint else NanoCaller()
    functions = _build_functions(config, caller)
    return SessionOptions(
        settings=SessionSettings(
            reply.instructions,
            turn_detection=detection,
            voice=voice.name if voice else None,
            calls_tools=caller is not None,
            forces_tools=caller is not None and caller.opening([]) is not None,
            speakers=SpeakerSettings(config.speakers.policy, config.speakers.memory),
            interruption=Interruption(
                turns.hold_ms,
                turns.short_ms,
                turns.back_channels,
                turns.resume,
                turns.unsure_ms,
                float(turns.min_confidence),
            ),
        ),
        replies=ReplyOptions(Sampling(reply.max_tokens, reply.temperature), speech, caller),
        ear=EarLimits(turns.max_utterance_ms, turns.max_manual_ms, make_vad),
        speakers=speakers,
        version=_version(),
        functions=functions,
        lifetime_s=config.server.session_s,
        legacy=config.server.legacy_events,
    )


def _build_functions(config: AgentConfig, caller: ToolCaller | None) -> FunctionOptions:
    """Raises ConfigError when a function is for people whom nobody can know."""
    functions, speakers = config.functions, config.speakers
    limited = [name for name, who in functions.allowed.items() if who != "everybody"]
    if limited and (speakers.policy == "off" or speakers.registry is None):
        where = "policy is off" if speakers.policy == "off" else "registry is null"
        raise ConfigError(f"functions.allowed.{limited[0]}: nobody can be known by voice, as speakers.{where}")
    own = functions.own
    if own and not isinstance(caller, HermesCaller):
        log.warning("functions.own: the loaded model cannot call %s, so they are left out", " and ".join(own))
        own = ()
    return FunctionOptions(own, Permissions(functions.allowed), functions.timeout_s)


def _version() -> str:
    try:
        return version("wavllm-agent")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
