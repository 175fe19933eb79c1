"""`wavllm demo --home`: a broker, a server, the gateway, and a kitchen with a coffee machine, on one machine.

What the kitchen says are recordings of people, sent over MQTT in real time; nothing but the model answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiomqtt
from rich.console import Console
from rich.table import Table

from clients.coffee import CUP_S
from clients.demo.run import FOLDER, free_port, read_script, running_server, serve_command
from clients.device import MACHINE, Answer, run_device
from clients.file import Line
from clients.mqtt.broker import PORTS, BrokerAddress
from clients.mqtt.embedded import embedded_broker
from clients.mqtt.gateway import Gateway, GatewaySettings
from clients.mqtt.topics import topic

KITCHEN: Final = "kitchen"
LOOK_S: Final = 5.0  # for what the broker holds; it is there at once


def run_home_demo(console: Console, port: int = 0, stay: bool = False) -> bool:
    """Hold the scripted conversation over MQTT; True when every line was answered.

    port: of the server; 0: a free one
    stay: leave broker, server and gateway running until Ctrl-C
    Raises ClientError when one of them does not start, or fails on the way.
    """
    lines, port = read_script(FOLDER / "home.json"), port or free_port()
    started = time.monotonic()
    with running_server(serve_command(port), port) as url:
        console.print(f"Server ready after {time.monotonic() - started:.1f} s at {url}", style="bold")
        return asyncio.run(be_at_home(lines, console, url, PORTS["mqtt"] if stay else free_port(), stay))


async def be_at_home(
    lines: Sequence[Line], console: Console, url: str, broker_port: int, stay: bool, cup_s: float = CUP_S
) -> bool:
    """Run broker and gateway before a server, and the kitchen's conversation; whether every line was answered."""
    async with embedded_broker(broker_port) as broker, _gateway(broker, url):
        console.print(f"Broker (amqtt, in this process) at mqtt://{broker}; the gateway is connected", style="bold")
        answers = await run_device(KITCHEN, lines, console, broker, cup_s=cup_s)
        console.print("\nWhat any other client of the broker finds there:", style="bold")
        for name, payload in (await _look(broker)).items():
            console.print(f"  {name}  {_summary(payload)}")
        console.print()
        console.print(_latencies(answers))
        answered = sum(answer.complete for answer in answers)
        console.print(f"{answered} of {len(lines)} lines answered\n")
        _invite(console, url, broker, stay)
        if stay:
            await asyncio.Event().wait()
    return answered == len(lines)


@asynccontextmanager
async def _gateway(broker: BrokerAddress, url: str) -> AsyncIterator[None]:
    """Serve devices within this block."""
    connected = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(broker, GatewaySettings(url))
        serving = tasks.create_task(gateway.run(connected.set), name="gateway")
        await connected.wait()
        yield
        serving.cancel()


async def _look(broker: BrokerAddress) -> dict[str, bytes]:
    """What is kept about the kitchen, by topic: state and machine, and what Home Assistant finds it by."""
    kept = [topic(KITCHEN, "state"), topic(KITCHEN, MACHINE), f"homeassistant/device/wavllm_{KITCHEN}/config"]
    found: dict[str, bytes] = {}
    async with asyncio.timeout(LOOK_S), aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(name, 1) for name in kept])
        async for message in client.messages:
            if message.topic.value in kept:  # amqtt sends what others have subscribed to as well
                found[message.topic.value] = bytes(message.payload)
            if len(found) == len(kept):
                break
    return found


def _summary(payload: bytes) -> str:
    values: dict[str, Any] = json.loads(payload)
    return ", ".join(values["components"]) if "components" in values else payload.decode()


def _latencies(answers: Sequence[Answer]) -> Table:
    table = Table("line", "sent → reply, over MQTT", "of it in the server", title="Latencies after the last sample")
    for answer in answers:
        inside = answer.latency
        in_server_ms = inside.total_ms - (inside.vad_wait_ms or 0) if inside else None
        table.add_row(
            answer.line.caption.removeprefix("── "),
            f"{answer.waited_ms:.0f} ms",
            "–" if in_server_ms is None else f"{in_server_ms:.0f} ms",
        )
    return table


def _invite(console: Console, url: str, broker: BrokerAddress, stay: bool) -> None:
    program = Path(sys.executable).with_name("wavllm")
    if stay:
        console.print("Another device, in another terminal:", style="bold")
        console.print(f"  {program} device hall --broker mqtt://{broker} --text 'what did i order'")
        console.print(f"Broker, gateway and the server at {url} stay until Ctrl-C.")
    else:
        console.print("With a house of your own:", style="bold")
        console.print(f"  {program} demo --home --stay  # leaves the three up, for devices and Home Assistant")
