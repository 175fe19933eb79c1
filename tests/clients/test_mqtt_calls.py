"""Functions of devices: offered, called once, answered or given up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from agent.config import AgentConfig, FunctionsConfig
from agent.protocol.errors import ProtocolError
from clients.device import MqttDevice
from clients.mqtt.calls import Calls, Offer, Result, read_offer, read_result
from clients.mqtt.topics import AudioChunk, Line
from tests.agent.harness import running
from tests.agent.scripted import silence, speech
from tests.agent.test_attribution import know
from tests.agent.test_functions import call, configured, saying
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


async def test_a_timer_keeps_the_conversation_open_and_the_device_is_told_when_it_is_over(tmp_path: Path) -> None:
    engine = saying(call("set_timer", seconds=0.6, name="tea"), "Right.", "Your tea!")
    async with (
        running(engine, configured(tmp_path)) as port,
        bridge_running(f"ws://127.0.0.1:{port}/v1/realtime", idle_s=0.4) as (bridge, log),
    ):
        bridge.say(Line("1", "tea in a moment"))
        await log.until("reply", 2)
        await log.until("state", 6)
    assert [reply["text"] for reply in log.of("reply")] == ["Right.", "Your tea!"]
    assert [(told["name"], told["status"]) for told in log.of("timer")] == [("tea", "set"), ("tea", "over")]
    assert log.of("state")[-1]["state"] == "idle", "and closed then"


async def test_a_device_is_asked_for_nothing_that_whoever_spoke_may_not_have(tmp_path: Path) -> None:
    """nano confirms an order, and is refused by the server."""
    engine, known = saying("Twice a latte. Coming up."), know(tmp_path, {1: "Anna"})
    config = AgentConfig(functions=FunctionsConfig(allowed={"make_coffee": ["Anna"]}))
    async with (
        running(engine, config, speakers=known) as port,
        bridge_running(f"ws://127.0.0.1:{port}/v1/realtime") as (bridge, log),
    ):
        bridge.offer(Offer([{"type": "function", "name": "make_coffee"}]))
        bridge.say(Line("guest", "two"))
        refused = await log.until("reply")
        engine.replies = [["Three times a latte. Coming up."]]
        bridge.hear(AudioChunk(0, silence(400) + speech(400, 1) + silence(100)))
        called = await log.until("call")
    why = "That did not work: make_coffee is only for Anna"
    assert refused["text"] == f"Twice a latte. Coming up. {why}"
    assert called["arguments"] == {"cups": 3, "drink": "latte"}
    assert len(log.of("call")) == 1


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
