"""What Home Assistant has to be told so that it finds a device by itself: one retained message. Pure."""

from __future__ import annotations

from typing import Any, Final

from clients.mqtt.topics import GATEWAY, Message, encode, topic

DEFAULT_PREFIX: Final = "homeassistant"
MAX_STATE_CHARS: Final = 255  # of a sensor; the whole text stands in its attributes
ORIGIN: Final = {"name": "wavllm-agent"}
SAY: Final = """{"id": "{{ 'ha-%s' % now().timestamp() }}", "text": {{ value | tojson }}}"""


def discovery(device: str, prefix: str = DEFAULT_PREFIX) -> Message:
    """The configuration of one device: what it hears and answers, how quickly, and what can be done with it."""
    components: dict[str, Any] = {
        "state": {**_sensor(device, "state", "State", "value_json.state"), "icon": "mdi:account-voice"},
        "transcript": _sensor(device, "transcript", "Heard", f"value_json.text[:{MAX_STATE_CHARS}]"),
        "reply": _sensor(device, "reply", "Reply", f"value_json.text[:{MAX_STATE_CHARS}]"),
        "speaker": _sensor(device, "speaker", "Speaker", "value_json.speaker"),
        "latency": _duration(device, "latency", "Latency", "value_json.total_ms"),
        "first_token": _duration(device, "first_token", "First token", "value_json.first_token_ms"),
        "listening": {
            **_entity(device, "binary_sensor", "listening", "Listening"),
            "state_topic": topic(device, "state"),
            "value_template": "{{ 'ON' if value_json.state == 'listening' else 'OFF' }}",
        },
        "mute": {
            **_entity(device, "switch", "mute", "Mute"),
            "state_topic": topic(device, "state"),
            "value_template": "{{ 'ON' if value_json.muted else 'OFF' }}",
            "command_topic": topic(device, "mute"),
            "icon": "mdi:microphone-off",
        },
        "say": {**_entity(device, "notify", "say", "Say"), **_line(device)},  # for automations
        "ask": {**_entity(device, "text", "ask", "Ask"), **_line(device), "max": MAX_STATE_CHARS},  # for dashboards
    }
    config = {
        "device": {"identifiers": [_unique(device)], "name": device, "manufacturer": "wavllm-agent", "model": "voice"},
        "origin": ORIGIN,
        "availability": [{"topic": topic(GATEWAY, "status")}],
        "qos": 1,
        "components": components,
    }
    return Message(f"{prefix}/device/{_unique(device)}/config", encode(config), retain=True)


def _entity(device: str, platform: str, key: str, name: str) -> dict[str, Any]:
    return {"platform": platform, "unique_id": _unique(device, key), "name": name}


def _line(device: str) -> dict[str, Any]:
    return {"command_topic": topic(device, "text"), "command_template": SAY}


def _duration(device: str, key: str, name: str, value: str) -> dict[str, Any]:
    return {
        **_sensor(device, "latency", name, value, key),
        "device_class": "duration",
        "unit_of_measurement": "ms",
        "state_class": "measurement",
        "entity_category": "diagnostic",
    }


def _sensor(device: str, channel: str, name: str, value: str, key: str | None = None) -> dict[str, Any]:
    """key: where one channel has several sensors"""
    return {
        **_entity(device, "sensor", key or channel, name),
        "state_topic": topic(device, channel),
        "value_template": f"{{{{ {value} }}}}",
        "json_attributes_topic": topic(device, channel),
    }


def _unique(*parts: str) -> str:
    return "_".join(("wavllm", *parts))
