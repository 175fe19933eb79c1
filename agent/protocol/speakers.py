"""Extension: what a client can say about voices. In a session, under the key `wavllm.speakers`; and two events."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import Fields

MAX_NAME_CHARS: Final = 64
MAX_VOICE_NUMBER: Final = 1_000
FINAL_POLICIES: Final = ("off", "require")  # of the operator

Policy = Literal["off", "label", "require"]
Memory = Literal["shared", "own"]


@dataclass(frozen=True, slots=True)
class SpeakerSettings:
    """How a session treats voices."""

    policy: Policy = "label"  # off: not compared; label: numbered or named; require: only enrolled ones are answered
    memory: Memory = "shared"  # own: a person is answered from what it said itself, and what nobody in particular did
    split_turns: bool = False  # where the voice changes, a turn becomes several items

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SpeakerName:
    """Call a voice of this session by name."""

    event_id: str | None
    number: int
    name: str
    enrol: bool  # and know it in later sessions


def merge_speakers(current: SpeakerSettings, patch: Fields, operator: Policy) -> SpeakerSettings:
    """The settings after `session.wavllm.speakers` of an update. Raises ProtocolError for what is not allowed."""
    settings = current
    if "policy" in patch:
        policy: Policy = patch.choice("policy", ["off", "label", "require"])
        if operator in FINAL_POLICIES and policy != operator:
            message = f"{patch.at('policy')} is {operator!r} for all sessions of this server"
            raise ProtocolError("immutable_parameter", message, param=patch.at("policy"))
        settings = replace(settings, policy=policy)
    if "memory" in patch:
        settings = replace(settings, memory=patch.choice("memory", ["shared", "own"]))
    if "split_turns" in patch:
        settings = replace(settings, split_turns=patch.flag("split_turns"))
    return settings


def read_name(event_id: str | None, fields: Fields) -> SpeakerName:
    """wavllm.speaker.name"""
    return _read(event_id, fields, enrol=False)


def read_enrol(event_id: str | None, fields: Fields) -> SpeakerName:
    """wavllm.speaker.enrol"""
    return _read(event_id, fields, enrol=True)


def _read(event_id: str | None, fields: Fields, *, enrol: bool) -> SpeakerName:
    number, name = fields.integer("number", 1, MAX_VOICE_NUMBER), fields.text("name", MAX_NAME_CHARS)
    return SpeakerName(event_id, number, name, enrol)
