"""The names that Realtime had before general availability, for clients that never learned the new ones. Pure.

`modern` rewrites what such a client says, `legacy` what it is told; nothing else of the server knows the old names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Values = dict[str, Any]

FORMATS: Final = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
FORMAT_NAMES: Final = {name: old for old, name in FORMATS.items()}
EVENTS: Final = {  # old: new
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "conversation.item.created": "conversation.item.added",
}
EVENT_NAMES: Final = {name: old for old, name in EVENTS.items()}
CONTENT: Final = {"text": "output_text", "audio": "output_audio"}
CONTENT_NAMES: Final = {name: old for old, name in CONTENT.items()}
NOT_TOLD: Final = "conversation.item.done"  # an old client knows one event of a new item
PLACES: Final = {  # of flat fields
    "input_audio_format": ("input", "format"),
    "input_audio_transcription": ("input", "transcription"),
    "input_audio_noise_reduction": ("input", "noise_reduction"),
    "turn_detection": ("input", "turn_detection"),
    "output_audio_format": ("output", "format"),
    "voice": ("output", "voice"),
    "speed": ("output", "speed"),
}


def modern(message: Values) -> Values:
    """A client's message in the names of today; what is misshapen is left for the reader to complain about."""
    rewrite: Mapping[str, tuple[str, Callable[[Values], Values]]] = {
        "session.update": ("session", _modern_settings),
        "transcription_session.update": ("session", _modern_settings),
        "response.create": ("response", _modern_response),
        "conversation.item.create": ("item", _modern_item),
    }
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in rewrite:
        return message
    name, change = rewrite[kind]
    inner = message.get(name)
    if isinstance(inner, dict):
        inner = change(inner)
        if kind == "transcription_session.update":
            inner["type"] = "transcription"
    return {**message, "type": kind.removeprefix("transcription_"), **({} if inner is None else {name: inner})}


def legacy(event: Values) -> list[Values]:
    """What an old client is told instead of `event`: one event or none."""
    kind = event["type"]
    if kind == NOT_TOLD:
        return []
    event = {**event, "type": EVENT_NAMES.get(kind, kind)}
    if kind in ("session.created", "session.updated"):
        event["session"] = _legacy_settings(event["session"])
        if event["session"].pop("type") == "transcription":
            event["type"] = f"transcription_{kind}"
    if "response" in event:
        event["response"] = _legacy_response(event["response"])
    if "item" in event:
        event["item"] = _legacy_item(event["item"])
    return [event]


def _modern_settings(old: Values) -> Values:
    new = {name: value for name, value in old.items() if name not in PLACES}
    new.pop("temperature", None)  # the operator decides
    if "modalities" in new:
        wanted = new.pop("modalities")
        known = isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)
        heard = known and set(wanted) == {"audio", "text"}  # audio had always its text beside it
        new["output_modalities"] = ["audio"] if heard else wanted
    if "max_response_output_tokens" in new:
        new["max_output_tokens"] = new.pop("max_response_output_tokens")
    for name, (side, field) in PLACES.items():
        if name in old:
            value = old[name]
            if field == "format" and isinstance(value, str):
                value = {"type": FORMATS.get(value, value)}
            new.setdefault("audio", {}).setdefault(side, {})[field] = value
    return new


def _modern_response(old: Values) -> Values:
    new = _modern_settings(old)
    if isinstance(new.get("input"), list):
        new["input"] = [_modern_item(item) if isinstance(item, dict) else item for item in new["input"]]
    return new


def _modern_item(old: Values) -> Values:
    if old.get("role") != "assistant" or not isinstance(old.get("content"), list):
        return old
    return {**old, "content": [_renamed(part, CONTENT) for part in old["content"]]}


def _legacy_settings(new: Values) -> Values:
    """Flat; the kind stays for whoever names the event."""
    old = {name: value for name, value in new.items() if name not in ("audio", "output_modalities", "truncation")}
    for name, (side, field) in PLACES.items():
        if field in new["audio"].get(side, {}):
            value = new["audio"][side][field]
            old[name] = FORMAT_NAMES[value["type"]] if field == "format" else value
    if "output_modalities" in new:
        old["modalities"] = _legacy_modalities(new["output_modalities"])
        old["max_response_output_tokens"] = old.pop("max_output_tokens")
    return old


def _legacy_response(new: Values) -> Values:
    old = {name: value for name, value in new.items() if name not in ("audio", "output_modalities")}
    old["modalities"] = _legacy_modalities(new["output_modalities"])
    if new["audio"]:
        output = new["audio"]["output"]
        old |= {"voice": output["voice"], "output_audio_format": FORMAT_NAMES[output["format"]["type"]]}
    return {**old, "output": [_legacy_item(item) for item in new["output"]]}


def _legacy_item(new: Values) -> Values:
    if "content" not in new:
        return new
    return {**new, "content": [_renamed(part, CONTENT_NAMES) for part in new["content"]]}


def _legacy_modalities(new: list[str]) -> list[str]:
    return ["text", "audio"] if new == ["audio"] else new


def _renamed(part: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return part
    return {**part, "type": names.get(part["type"], part["type"])}
