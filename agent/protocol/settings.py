"""What a client can set for its session, and how a change is merged into what stands.

A key that is absent keeps its value; null is a value of its own where it means something (no turn
detection, no transcripts). A patch is read whole before anything changes. Settings are immutable, so that
a response keeps those it began with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import MAX_ID_CHARS, Fields
from agent.protocol.formats import PCM_24_KHZ, AudioFormat, read_format
from agent.protocol.interruption import Interruption, merge_interruption
from agent.protocol.speakers import SpeakerSettings, merge_speakers
from agent.protocol.tools import (
    CANNOT_CALL,
    Forced,
    FunctionTool,
    ToolChoice,
    check_choice,
    check_names,
    read_tool_choice,
    read_tools,
)
from agent.protocol.turn_detection import SERVER_VAD, TurnDetection, merge_detection

MAX_OUTPUT_TOKENS: Final = 4_096
MODEL: Final = "wavllm"
LOGPROBS: Final = "item.input_audio_transcription.logprobs"
NO_VOICE: Final = 'this server has no voice; ask for ["text"]'
NOT_FOR_TRANSCRIPTION: Final = ("instructions", "output_modalities", "tools", "tool_choice", "max_output_tokens")

Kind = Literal["realtime", "transcription"]
Modality = Literal["text", "audio"]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Everything a session.update can change."""

    instructions: str = ""
    input_format: AudioFormat = PCM_24_KHZ
    transcription: bool = True  # transcripts are sent; they are made in any case, for the history
    turn_detection: TurnDetection | None = SERVER_VAD  # None: the client commits
    max_output_tokens: int | Literal["inf"] = "inf"
    output: Modality = "text"  # of replies; who wants to hear them says so
    output_format: AudioFormat = PCM_24_KHZ  # of spoken ones
    voice: str | None = None  # the server's own, which no client changes; None: it cannot speak
    calls_tools: bool = False  # whether the model can, likewise
    forces_tools: bool = False  # and can be made to
    own_functions: tuple[str, ...] = ()  # of the server, by name, likewise
    kind: Kind = "realtime"
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    model: str = MODEL  # as the client called it at the beginning; there is one
    asked_voice: str | None = None  # as the client called it; it means `voice`
    speakers: SpeakerSettings = field(default_factory=SpeakerSettings)
    interruption: Interruption = field(default_factory=Interruption)
    logprobs: bool = False  # the client wants to know how sure the model was of a transcript

    @property
    def answers_by_itself(self) -> bool:
        """Whether a turn is answered that the client did not ask about."""
        detection = self.turn_detection
        return self.kind == "realtime" and detection is not None and detection.create_response

    def to_wire(self, session_id: str, expires_at: int | None = None) -> dict[str, Any]:
        """The session object of the protocol, with effective values only; `expires_at` in seconds of Unix time."""
        extensions = {
            "speakers": self.speakers.to_wire(),
            "interruption": self.interruption.to_wire(),
            "functions": list(self.own_functions),
        }
        known: dict[str, Any] = {"type": self.kind, "id": session_id, "expires_at": expires_at, "wavllm": extensions}
        known["include"] = [LOGPROBS] if self.logprobs else None
        if self.kind == "transcription":
            known["object"] = "realtime.transcription_session"
            return {**known, "audio": {"input": self._input_to_wire()}}
        spoken = {"output": {"format": self.output_format.to_wire(), "voice": self.voice, "speed": 1.0}}
        return {
            **known,
            "object": "realtime.session",
            "model": MODEL,
            "instructions": self.instructions,
            "output_modalities": [self.output],
            "audio": {**(spoken if self.voice else {}), "input": self._input_to_wire()},
            "tools": [tool.to_wire() for tool in self.tools],
            "tool_choice": choice.to_wire() if isinstance(choice := self.tool_choice, Forced) else choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "max_output_tokens": self.max_output_tokens,
            "truncation": "auto",
        }

    def _input_to_wire(self) -> dict[str, Any]:
        detection = self.turn_detection
        return {
            "format": self.input_format.to_wire(),
            "noise_reduction": None,
            "transcription": {"model": MODEL} if self.transcription else None,
            "turn_detection": detection and detection.to_wire(),
        }


@dataclass(frozen=True, slots=True)
class Fixed:
    """What can no longer be changed in a session that has got on."""

    kind: bool = False  # something was said
    voice: bool = False  # the voice was heard


def merge(
    current: SessionSettings, patch: Fields, defaults: SessionSettings, fixed: Fixed | None = None
) -> SessionSettings:
    """The settings after a session.update; `defaults` fill turn detection that was off.

    Raises ProtocolError when any part of the patch cannot be taken.
    """
    fixed = fixed or Fixed()
    settings = _merge_kind(current, patch, fixed)
    if output := output_modality(patch):
        if output == "audio" and current.voice is None:
            raise patch.wrong("output_modalities", f'["text"]: {NO_VOICE}')
        settings = replace(settings, output=output)
    if "instructions" in patch:
        settings = replace(settings, instructions=patch.text("instructions"))
    if "max_output_tokens" in patch:
        settings = replace(settings, max_output_tokens=output_tokens(patch))
    settings = _merge_tools(settings, patch)
    output_format, voice = output_audio(patch, current.output_format)
    if voice and voice not in (current.asked_voice, current.voice):
        if fixed.voice:
            at = patch.at("audio.output.voice")
            message = f"{at} cannot change to {voice!r}: the voice of this session was heard already"
            raise ProtocolError("cannot_update_voice", message, param=at)
        settings = replace(settings, asked_voice=voice)
    settings = replace(settings, output_format=output_format or current.output_format)
    if "audio" in patch and "input" in (audio := patch.object("audio")):
        settings = _merge_input(settings, audio.object("input"), defaults)
    return _merge_extensions(settings, patch.object("wavllm"), defaults) if "wavllm" in patch else settings


def _merge_kind(current: SessionSettings, patch: Fields, fixed: Fixed) -> SessionSettings:
    """What a session is, and all that no session of this server is."""
    kind: Kind = patch.choice("type", ["realtime", "transcription"]) if "type" in patch else current.kind
    if fixed.kind and kind != current.kind:
        raise _immutable(patch, "type", current.kind, "something was said already")
    if kind == "transcription":
        for name in NOT_FOR_TRANSCRIPTION:
            patch.refuse(name, "a transcription session answers nothing")
    model = patch.optional_text("model") or current.model
    if fixed.kind and model not in (current.model, MODEL):
        raise _immutable(patch, "model", current.model, "something was said already")
    patch.refuse("prompt", "this server keeps no prompt templates; send instructions")
    logprobs = _wants_logprobs(patch) if "include" in patch else current.logprobs
    if patch.values.get("truncation") is not None:
        patch.choice("truncation", ["auto"])
    return replace(current, kind=kind, model=current.model if model == MODEL else model, logprobs=logprobs)


def _wants_logprobs(patch: Fields) -> bool:
    if patch.values["include"] is None:
        return False
    included = patch.texts("include", 8, MAX_ID_CHARS)
    if set(included) - {LOGPROBS}:
        raise patch.wrong("include", f'["{LOGPROBS}"]')
    return bool(included)


def _merge_extensions(settings: SessionSettings, patch: Fields, defaults: SessionSettings) -> SessionSettings:
    if "speakers" in patch:
        speakers = merge_speakers(settings.speakers, patch.object("speakers"), defaults.speakers.policy)
        settings = replace(settings, speakers=speakers)
    if "interruption" in patch:
        interruption = merge_interruption(settings.interruption, patch.object("interruption"))
        settings = replace(settings, interruption=interruption)
    return settings


def _immutable(patch: Fields, name: str, current: str, why: str) -> ProtocolError:
    message = f"{patch.at(name)} is {current!r} and cannot change: {why}"
    return ProtocolError("immutable_parameter", message, param=patch.at(name))


def _merge_tools(settings: SessionSettings, patch: Fields) -> SessionSettings:
    if not settings.calls_tools:
        patch.refuse("tools", CANNOT_CALL)
    tools, choice = read_tools(patch), read_tool_choice(patch)
    check_names(tools or (), settings.own_functions, patch.at("tools"))
    settings = replace(
        settings,
        tools=settings.tools if tools is None else tools,
        tool_choice=choice or settings.tool_choice,
    )
    names = {*settings.own_functions, *(tool.name for tool in settings.tools)}
    check_choice(settings.tool_choice, names, patch.at("tool_choice"), forces=settings.forces_tools)
    if "parallel_tool_calls" in patch:
        settings = replace(settings, parallel_tool_calls=patch.flag("parallel_tool_calls"))
    return settings


def output_modality(fields: Fields) -> Modality | None:
    """What replies are asked for in; None: it is not said. Raises ProtocolError on anything but one of the two."""
    if "output_modalities" not in fields:
        return None
    wanted = fields.value("output_modalities")
    if wanted not in (["text"], ["audio"]):
        raise fields.wrong("output_modalities", '["text"] or ["audio"]')
    modality: Modality = wanted[0]
    return modality


def output_audio(fields: Fields, current: AudioFormat) -> tuple[AudioFormat | None, str | None]:
    """The format and the voice that `audio.output` asks for, if any. Any voice means the one there is.

    Raises ProtocolError when it asks for a sound that there is not.
    """
    if "audio" not in fields or "output" not in (audio := fields.object("audio")):
        return None, None
    output, wanted = audio.object("output"), None
    if output.values.get("format") is not None:
        wanted = read_format(output.object("format"), current)
    if output.values.get("speed") is not None:
        output.number("speed", 1, 1)
    if isinstance(output.values.get("voice"), dict):
        return wanted, output.object("voice").text("id", MAX_ID_CHARS)
    return wanted, output.optional_text("voice")


def output_tokens(fields: Fields) -> int | Literal["inf"]:
    """The limit of a reply: a number of tokens, or "inf" for the server's own limit."""
    if fields.value("max_output_tokens") == "inf":
        return "inf"
    return fields.integer("max_output_tokens", 1, MAX_OUTPUT_TOKENS)


def _merge_input(current: SessionSettings, patch: Fields, defaults: SessionSettings) -> SessionSettings:
    settings = current
    if "format" in patch:
        settings = replace(settings, input_format=read_format(patch.object("format"), current.input_format))
    if "transcription" in patch:
        wanted = patch.value("transcription") is not None
        if wanted:
            patch.object("transcription")  # which model, which language: there is one
        settings = replace(settings, transcription=wanted)
    if "turn_detection" in patch:
        if patch.value("turn_detection") is None:
            return replace(settings, turn_detection=None)
        usual = defaults.turn_detection or SERVER_VAD
        detection = merge_detection(current.turn_detection, patch.object("turn_detection"), usual)
        settings = replace(settings, turn_detection=detection)
    return settings
