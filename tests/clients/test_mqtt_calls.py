"""Functions of devices: offered, called once, answered or given up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from agent.protocol.errors import ProtocolError
from clients.device import MqttDevice
from clients.mqtt.calls import Calls, Result, read_offer, read_result
from clients.mqtt.topics import Line
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import QUICK, Log, gateway_running
from tests.clients.scripted_server import ScriptedServer
from tests.clients.test_mqtt_bridge import bridge_running

CALL = {"type": "function_call", "call_id": "call_1", "name": "ring", "arguments": '{"times": 2}'}
TOOL = {"type": "function", "name": "ring", "parameters": {"type": "object"}}


class Bell:
    """Counts."""

    def __init__(self) -> None:
        self.rung: list[Mapping[str, Any]] = []
        self.tool = TOOL

    async def call(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.rung.append(arguments)
        return {"rung": len(self.rung)}


@pytest.mark.needs("mosquitto")
async def test_what_a_device_offers_is_called_once_and_the_result_is_answered(tmp_path: Path) -> None:
    log, bell = Log(), Bell()
    async with Mosquitto(tmp_path).running() as broker, ScriptedServer(call=CALL).running() as server:
        device = MqttDevice("kitchen", broker.address, log, QUICK)
        device.appliances = [bell]
        async with gateway_running(broker.address, server.url), device.connected():
            assert (await device.ask("ring twice"))["text"] == "you wrote ring twice"
            assert (await log.until("reply", 2))["text"] == 'you wrote {"rung": 1}'
            async with Client(broker.address.host, broker.address.port) as other:  # at least once, says the broker
                await other.publish("wavllm/1/kitchen/call", json.dumps(log.of("call")[0]), qos=1)
            assert (await device.ask("and now"))["text"] == "you wrote and now"
        async with gateway_running(broker.address, server.url), device.connected():
            await device.ask("restarted")
    assert bell.rung == [{"times": 2}]
    assert [update["tools"] for update in server.session_updates if "tools" in update] == [[TOOL], [TOOL]]


async def test_a_device_that_does_nothing_is_not_waited_for_for_ever() -> None:
    async with (
        ScriptedServer(call=CALL).running() as server,
        bridge_running(server.url, call_s=0.05) as (bridge, log),
    ):
        bridge.say(Line("1", "ring"))
        late = await log.until("reply", 2)
        assert "the device gave no result within 0.05 s" in late["text"]
        bridge.answer(Result("call_1", "{}"))
        bridge.say(Line("2", "next"))
        assert (await log.until("reply", 3))["text"] == "you wrote next"
    assert log.of("call") == [{"id": "call_1", "name": "ring", "arguments": {"times": 2}}]


def test_several_calls_are_answered_together() -> None:
    calls = Calls(10, lambda: 0.0)
    told = calls.begin({"output": [CALL, {"type": "message"}, {**CALL, "call_id": "call_2"}]})
    assert [call["id"] for call in told] == ["call_1", "call_2"]
    assert calls.end(Result("call_3", "{}")) == []
    assert [event["type"] for event in calls.end(Result("call_1", "{}"))] == ["conversation.item.create"]
    assert [event["type"] for event in calls.end(Result("call_2", "{}"))] == [
        "conversation.item.create",
        "response.create",
    ]
    assert not calls


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"tools": 5}', b'{"tools": [5]}', bytes(20_000)])
def test_what_is_no_offer(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_offer(payload)


@pytest.mark.parametrize("payload", [b"{}", b'{"id": 5}', b'{"id": "1"}', b'{"id": "1", "output": "done"}'])
def test_what_is_no_result(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_result(payload)
