from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.client_events import AudioAppend, ItemCreate, parse_client_event
from agent.protocol.errors import ProtocolError
from agent.protocol.fields import Fields
from agent.protocol.formats import PCM_RATES_HZ, AudioFormat
from agent.protocol.items import NewMessage
from agent.protocol.replies import ReplyEvents
from agent.protocol.response_create import ResponseCreate
from agent.protocol.server_events import encode, error
from agent.protocol.settings import SessionSettings, TurnDetection, merge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(
    [
        "session.update",
        "input_audio_buffer.append",
        "conversation.item.create",
        "conversation.item.delete",
        "response.create",
        "response.cancel",
    ]
)
NAMES = st.sampled_from(
    ["event_id", "session", "audio", "item", "item_id", "response", "content", "type", "input", "role"]
)
NESTED = st.recursive(JSON, lambda inner: st.dictionaries(NAMES, inner, max_size=5), max_leaves=12)
FORMATS = st.sampled_from(
    [AudioFormat(rate_hz=rate) for rate in PCM_RATES_HZ]
    + [AudioFormat("audio/pcmu", 8_000), AudioFormat("audio/pcma", 8_000)]
)
SETTINGS = st.builds(
    SessionSettings,
    instructions=st.text(max_size=20),
    input_format=FORMATS,
    output_format=FORMATS,
    voice=st.just("espeak-ng"),
    transcription=st.booleans(),
    turn_detection=st.none()
    | st.builds(
        TurnDetection,
        threshold=st.floats(0, 1),
        prefix_padding_ms=st.integers(0, 2_000),
        silence_duration_ms=st.integers(100, 10_000),
        create_response=st.booleans(),
        interrupt_response=st.booleans(),
    ),
    max_output_tokens=st.just("inf") | st.integers(1, 4_096),
)


def parse(**fields: Any) -> Any:
    return parse_client_event(json.dumps(fields))


@given(message=st.text() | JSON.map(json.dumps))
def test_garbage_is_refused_in_one_way_only(message: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_client_event(message)


@given(kind=KINDS, fields=st.dictionaries(NAMES, NESTED, max_size=5))
def test_misshapen_events_are_taken_or_refused_never_worse(kind: str, fields: dict[str, Any]) -> None:
    try:
        event = parse_client_event(json.dumps({**fields, "type": kind}))
        if kind == "session.update":
            merge(SessionSettings(), event.patch, SessionSettings())  # type: ignore[union-attr]
    except ProtocolError as refused:
        json.loads(encode(error(refused)))


@given(samples=st.binary(max_size=400), event_id=st.none() | st.text(max_size=128))
def test_audio_arrives_as_it_was_sent(samples: bytes, event_id: str | None) -> None:
    pcm = samples[: len(samples) // 2 * 2]
    audio = base64.b64encode(pcm).decode()
    message = {"type": "input_audio_buffer.append", "audio": audio, "unknown": 1, "event_id": event_id}
    try:
        event = parse(**message)
    except ProtocolError as refused:
        assert refused.param == "event_id"  # half a character
    else:
        assert event == AudioAppend(event_id, pcm)


@given(settings=SETTINGS, current=SETTINGS)
def test_settings_survive_the_wire(settings: SessionSettings, current: SessionSettings) -> None:
    try:
        assert merge(current, Fields(settings.to_wire("sess_1")), SessionSettings()) == settings
    except ProtocolError as refused:
        assert refused.param == "instructions"


@given(settings=SETTINGS)
def test_an_empty_patch_changes_nothing(settings: SessionSettings) -> None:
    same = {"format": {"type": settings.input_format.type}}  # a rate that is not named stays
    for patch in ({}, {"audio": {}}, {"audio": {"input": same}}):
        assert merge(settings, Fields(patch), SessionSettings()) == settings


def test_a_patch_reaches_one_leaf_and_null_is_a_value() -> None:
    def patched(settings: SessionSettings, detection: Any) -> SessionSettings:
        patch = {"audio": {"input": {"turn_detection": detection}}}
        return merge(settings, Fields(patch, "session"), SessionSettings())

    tuned = patched(SessionSettings(), {"silence_duration_ms": 700})
    assert tuned.turn_detection == TurnDetection(silence_duration_ms=700)
    manual = patched(tuned, None)
    assert manual.turn_detection is None
    with pytest.raises(ProtocolError, match=r"session\.audio\.input\.turn_detection\.type is missing"):
        patched(manual, {"threshold": 0.3})
    assert patched(manual, {"type": "server_vad"}).turn_detection == TurnDetection()


def test_items_and_overrides_are_read() -> None:
    content = [{"type": "input_text", "text": "a "}, {"type": "input_text", "text": "b"}]
    item = {"type": "message", "role": "user", "content": content, "id": "mine"}
    event = parse(type="conversation.item.create", item=item, previous_item_id="root")
    assert event == ItemCreate(None, NewMessage("mine", "user", "a b"), "root")
    response = {"max_output_tokens": "inf", "instructions": "", "output_modalities": ["text"]}
    assert parse(type="response.create", response=response) == ResponseCreate(None, "", "inf", output="text")
    assert parse(type="response.create", response=None) == ResponseCreate()


@given(
    steps=st.lists(st.text(min_size=1, max_size=4), max_size=4),
    ending=st.sampled_from(["completed", "cancelled", "failed", "incomplete"]),
)
def test_whatever_a_response_opens_it_closes(steps: list[str], ending: Any) -> None:
    reply = ReplyEvents("resp_1", "conv_1", "inf", {})
    sent = reply.begin()
    for number, text in enumerate(steps):
        sent += reply.open("item_1", None) if number == 0 else []
        sent.append(reply.piece(text))
    sent += reply.end(ending, usage=None)
    kinds = [event["type"] for event in sent]
    for opened in ("response.output_item", "response.content_part", "conversation.item"):
        assert kinds.count(f"{opened}.added") == kinds.count(f"{opened}.done") == bool(steps)
    assert (kinds[0], kinds[-1], kinds.count("response.done")) == ("response.created", "response.done", 1)
    response = sent[-1]["response"]
    assert response["status"] == ending
    assert sum(len(item["content"]) for item in response["output"]) == bool(steps)
    if steps:
        assert response["output"][0]["content"][0]["text"] == "".join(steps)
        assert response["output"][0] == sent[-2]["item"]
    with pytest.raises(ValueError, match="already"):
        reply.end("completed", usage=None)
    with pytest.raises(ValueError, match=ending):
        reply.piece("late")
