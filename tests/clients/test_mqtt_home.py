"""What Home Assistant and an operator see of the gateway."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from aiomqtt import Client, Message

from clients.demo.run import free_port
from clients.device import MqttDevice
from clients.mqtt.broker import BrokerAddress, parse_broker
from clients.mqtt.discovery import discovery
from clients.mqtt.embedded import embedded_broker
from clients.mqtt.gateway import Gateway, GatewaySettings
from clients.mqtt.topics import Line
from clients.realtime import ClientError
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import QUICK, Log, gateway_running
from tests.clients.scripted_server import LATENCY, ScriptedServer

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def listening(address: BrokerAddress, *topics: str) -> AsyncIterator[Client]:
    async with Client(address.host, address.port) as client:
        for topic in topics:
            await client.subscribe(topic, qos=1)
        yield client


def write_password(folder: Path) -> Path:
    """A file with user wavllm, password secret."""
    path = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", path, "wavllm", "secret"], check=True)
    return path


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for localhost that it signed itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *files, *subject]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


async def arrival(client: Client) -> Message:
    async with asyncio.timeout(5):
        return await anext(client.messages)


@pytest.mark.needs("mosquitto")
async def test_home_assistant_finds_a_device_and_finds_it_again(tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path).running() as broker,
        ScriptedServer().running() as server,
        gateway_running(broker.address, server.url),
        MqttDevice("kitchen", broker.address, backoff=QUICK).connected() as device,
    ):
        await device.ask("hello")
        async with listening(broker.address, "homeassistant/device/+/config") as home:
            found = await arrival(home)
            assert found.topic.value == "homeassistant/device/wavllm_kitchen/config"
            assert found.retain
            await home.publish("homeassistant/status", b"online", qos=1)
            again = await arrival(home)
        assert (again.retain, again.payload) == (False, found.payload)
    assert isinstance(found.payload, bytes)
    config = json.loads(found.payload)
    assert config["origin"]["name"] == "wavllm-agent"
    assert config["device"] == {
        "identifiers": ["wavllm_kitchen"],
        "name": "kitchen",
        "manufacturer": "wavllm-agent",
        "model": "voice",
    }
    assert config["availability"] == [{"topic": "wavllm/1/gateway/status"}]
    parts: dict[str, dict[str, Any]] = config["components"]
    sensors = ("state", "transcript", "reply", "speaker", "latency", "first_token")
    assert {name: part["platform"] for name, part in parts.items()} == {
        **dict.fromkeys(sensors, "sensor"),
        "listening": "binary_sensor",
        "mute": "switch",
        "say": "notify",
        "ask": "text",
    }
    assert {part["unique_id"] for part in parts.values()} == {f"wavllm_kitchen_{name}" for name in parts}
    assert {part["state_topic"] for part in parts.values() if "state_topic" in part} == {
        f"wavllm/1/kitchen/{channel}" for channel in ("state", "transcript", "reply", "speaker", "latency")
    }
    assert {part["command_topic"] for part in parts.values() if "command_topic" in part} == {
        f"wavllm/1/kitchen/{channel}" for channel in ("text", "mute")
    }


def test_the_templates_find_what_they_show() -> None:
    parts = json.loads(discovery("kitchen").payload)["components"]
    state = {"state": "listening", "muted": False}
    payloads = {
        "state": state,
        "listening": state,
        "mute": state,
        "transcript": {"text": "hello"},
        "reply": {"text": "x" * 300},
        "speaker": {"speaker": "speaker 1"},
        "latency": LATENCY,
        "first_token": LATENCY,
    }
    shown = {
        name: jinja2.Template(part["value_template"]).render(value_json=payloads[name])
        for name, part in parts.items()
        if "value_template" in part
    }
    assert shown == {
        "state": "listening",
        "listening": "ON",
        "mute": "OFF",
        "transcript": "hello",
        "reply": "x" * 255,
        "speaker": "speaker 1",
        "latency": "50.0",
        "first_token": "20.0",
    }


@pytest.mark.needs("mosquitto")
async def test_a_device_that_is_muted_is_not_heard(tmp_path: Path) -> None:
    log, loud = Log(), np.full(3_200, 16_000, "<i2").tobytes()
    async with (
        Mosquitto(tmp_path).running() as broker,
        ScriptedServer(spoken=[("hello", "hi")]).running() as server,
        gateway_running(broker.address, server.url),
        MqttDevice("kitchen", broker.address, log, QUICK).connected() as device,
        listening(broker.address) as home,
    ):
        await device.send_pcm(loud)
        await log.until("state", 3)  # listening
        await home.publish("wavllm/1/kitchen/mute", b"ON", qos=1)
        await log.until("state", 4)
        await device.send_pcm(loud + bytes(len(loud)))
        await home.publish("wavllm/1/kitchen/mute", b"maybe", qos=1)
        assert (await log.until("error"))["message"] == "a switch is ON or OFF, not 'maybe'"
        assert (await device.ask("hello"))["status"] == "completed"  # it can still type
        await home.publish("wavllm/1/kitchen/mute", b"OFF", qos=1)
        await log.until("state", 7)
        await device.send_pcm(loud + bytes(len(loud)))
        assert (await log.until("reply", 2))["text"] == "hi"
    told = [(state["state"], state["muted"]) for state in log.of("state")[2:7]]
    assert told == [("listening", False), ("ready", True), ("thinking", True), ("ready", True), ("ready", False)]


@pytest.mark.needs("mosquitto")
async def test_the_status_tells_whether_the_gateway_is_there(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path).running() as broker, listening(broker.address, "wavllm/1/gateway/status") as home:
        async with gateway_running(broker.address, "ws://127.0.0.1:9/"):
            assert (await arrival(home)).payload == b"online"
        assert (await arrival(home)).payload == b"offline"


@pytest.mark.needs("mosquitto")
async def test_the_command_says_goodbye_when_it_is_interrupted(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path).running() as broker, listening(broker.address, "wavllm/1/gateway/status") as home:
        arguments = ["--broker", f"mqtt://{broker.address}", "--state", str(tmp_path / "mqtt.db")]
        gateway = await asyncio.create_subprocess_exec(sys.executable, "-m", "agent", "mqtt", *arguments, cwd=ROOT)
        async with asyncio.timeout(15):
            assert (await anext(home.messages)).payload == b"online"
            gateway.send_signal(signal.SIGINT)
            assert await gateway.wait() == 0
        assert (await arrival(home)).payload == b"offline"


def test_what_home_assistant_says_becomes_a_line() -> None:
    say = json.loads(discovery("kitchen").payload)["components"]["say"]
    template = jinja2.Template(say["command_template"])
    payload = template.render(value='say "hi" to {{ you }}', now=lambda: datetime(2026, 11, 25))
    line = Line.decode(payload.encode())
    assert line.text == 'say "hi" to {{ you }}'
    assert line.id == f"ha-{datetime(2026, 11, 25).timestamp()}"


@pytest.mark.needs("mosquitto")
async def test_the_password_counts(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, ["allow_anonymous false", f"password_file {write_password(tmp_path)}"])
    url = f"mqtt://wavllm@127.0.0.1:{broker.port}"
    async with broker.running(), ScriptedServer().running() as server:
        right, wrong = parse_broker(url, "secret"), parse_broker(url, "guess")
        async with gateway_running(right, server.url), MqttDevice("kitchen", right).connected() as device:
            assert (await device.ask("hello"))["status"] == "completed"
        with pytest.raises(ClientError, match=f"127.0.0.1:{broker.port} refuses us: .*Not authorized"):
            await Gateway(wrong, GatewaySettings(server.url)).run()
        with pytest.raises(ClientError, match="refuses us"):
            async with MqttDevice("kitchen", wrong).connected():
                pass


@pytest.mark.needs("mosquitto", "openssl")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho forgets to close that socket
async def test_tls_is_spoken_and_certificates_are_looked_at(tmp_path: Path) -> None:
    key, certificate = write_certificate(tmp_path)
    broker = Mosquitto(tmp_path, ["allow_anonymous true", f"certfile {certificate}", f"keyfile {key}"])
    url = f"mqtts://localhost:{broker.port}"
    async with broker.running(), ScriptedServer().running() as server:
        trusted = parse_broker(url, ca=certificate)
        async with gateway_running(trusted, server.url), MqttDevice("kitchen", trusted).connected() as device:
            assert (await device.ask("hello"))["status"] == "completed"
        with pytest.raises(ClientError, match=r"refuses us: .*certificate verify failed"):
            async with MqttDevice("kitchen", parse_broker(url)).connected():
                pass
    gc.collect()


@pytest.mark.parametrize(
    ("url", "password", "ca", "complaint"),
    [
        ("127.0.0.1", None, None, "write mqtt://HOST:PORT"),
        ("http://127.0.0.1", None, None, "write mqtt://HOST:PORT"),
        ("mqtt://", None, None, "write mqtt://HOST:PORT"),
        ("mqtt://host/path", None, None, "write mqtt://HOST:PORT"),
        ("mqtt://host:99999", None, None, "Port out of range"),
        ("mqtt://[host", None, None, "is not the address of a broker"),
        ("mqtt://me:secret@host", None, None, "belongs into WAVLLM_MQTT_PASSWORD"),
        ("mqtt://host", "secret", None, "names no user"),
        ("mqtt://host", None, Path("ca.pem"), "write mqtts://"),
        ("mqtts://host", None, Path("no such file"), "not a file of certificates"),
    ],
)
def test_addresses_of_brokers(url: str, password: str | None, ca: Path | None, complaint: str) -> None:
    with pytest.raises(ClientError, match=complaint):
        parse_broker(url, password, ca)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ClientError, match="not a WebSocket address"):
        GatewaySettings("http://127.0.0.1/")
    with pytest.raises(ClientError, match="holds \\+ or #"):
        GatewaySettings(discovery_prefix="home/#")


async def test_a_port_that_is_taken_is_named() -> None:
    port = free_port()
    async with embedded_broker(port):
        with pytest.raises(ClientError, match=f"no broker can listen on 127.0.0.1:{port}"):
            async with embedded_broker(port):
                pass
