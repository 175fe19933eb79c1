"""What Home Assistant has to be told so that it finds a device by itself: one retained message. Pure."""

from __future__ import annotations

from typing import Any, Final

from clients.mqtt.topics import GATEWAY, Message, encode, topic

DEFAULT_PREFIX: Final = "homeassistant"
MAX_STATE_CHARS: Final = 255  # of a sensor; the whole text stands in its attributes
ORIGIN: Final = {"name": "wavllm-agent"}
SAY: Final = """{"id": "{{ 'ha-%s' % now().timestamp() }}", "text": {{ value | tojson }}}"""


def discovery(device: str, prefix: str = DEFAULT_PREFIX) -> Message:
    """The configuration of one device: five sensors, and a way to say something."""
    components: dict[str, Any] = {
        "state": {**_sensor(device, "state", "State", "value_json.state"), "icon": "mdi:account-voice"},
        "transcript": _sensor(device, "transcript", "Heard", f"value_json.text[:{MAX_STATE_CHARS}]"),
        "reply": _sensor(device, "reply", "Reply", f"value_json.text[:{MAX_STATE_CHARS}]"),
        "speaker": _sensor(device, "speaker", "Speaker", "value_json.speaker"),
        "latency": {
            **_sensor(device, "latency", "Latency", "value_json.total_ms"),
            "device_class": "duration",
            "unit_of_measurement": "ms",
            "state_class": "measurement",
            "entity_category": "diagnostic",
        },
        "say": {
            "platform": "notify",
            "unique_id": _unique(device, "say"),
            "name": "Say",
            "command_topic": topic(device, "text"),
            "command_template": SAY,
        },
    }
    config = {
        "device": {"identifiers": [_unique(device)], "name": device, "manufacturer": "wavllm-agent", "model": "voice"},
        "origin": ORIGIN,
        "availability": [{"topic": topic(GATEWAY, "status")}],
        "qos": 1,
        "components": components,
    }
    return Message(f"{prefix}/device/{_unique(device)}/config", encode(config), retain=True)


def _sensor(device: str, channel: str, name: str, value: str) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "unique_id": _unique(device, channel),
        "name": name,
        "state_topic": topic(device, channel),
        "value_template": f"{{{{ {value} }}}}",
        "json_attributes_topic": topic(device, channel),
    }


def _unique(*parts: str) -> str:
    return "_".join(("wavllm", *parts))
