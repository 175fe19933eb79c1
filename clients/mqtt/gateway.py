"""`wavllm mqtt`: devices on an MQTT broker, each a client of the server.

Owns who is let in and where complaints go; a device is a `Bridge`, the connection to the broker a `Link`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from agent.protocol.errors import ProtocolError
from clients.mqtt import discovery, topics
from clients.mqtt.bridge import Bridge, BridgeLimits
from clients.mqtt.broker import Arrived, BrokerAddress, Link
from clients.mqtt.retry import Backoff, first
from clients.mqtt.topics import GATEWAY, ROOT, AudioChunk, Line, Message, Values, encode, error_values
from clients.realtime import DEFAULT_URL, ClientError

CLIENT_ID: Final = "wavllm-gateway"
STATUS: Final = topics.topic(GATEWAY, "status")
MAX_LOGGED: Final = 1024  # kinds of complaints; each is logged once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the operator decides."""

    url: str = DEFAULT_URL
    max_devices: int = 256  # that may be known at a time; a restart forgets them
    discovery_prefix: str = discovery.DEFAULT_PREFIX  # of Home Assistant; "": without it
    limits: BridgeLimits = field(default_factory=BridgeLimits)
    broker_backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("ws", "wss"):
            raise ClientError(f"{self.url} is not a WebSocket address")
        if set(self.discovery_prefix) & set("+#"):
            raise ClientError(f"{self.discovery_prefix} is not a prefix of topics: it holds + or #")


class Gateway:
    """Lets devices in, one bridge each."""

    def __init__(self, address: BrokerAddress, settings: GatewaySettings) -> None:
        self._settings = settings
        self._home = f"{settings.discovery_prefix}/status" if settings.discovery_prefix else None
        subscriptions = [f"{ROOT}/+/{channel}" for channel in topics.UP] + ([self._home] if self._home else [])
        will = Message(STATUS, b"offline", retain=True)
        self._link = Link(
            address, CLIENT_ID, subscriptions, persistent=True, will=will, backoff=settings.broker_backoff
        )
        self._bridges: dict[str, Bridge] = {}
        self._logged: set[tuple[str, str]] = set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled. Raises ClientError when the broker refuses us.

        on_ready: called on each connection to the broker
        """

        async def greet() -> None:
            await self._link.outbox.put(Message(STATUS, b"online", retain=True))
            await self._introduce_all()
            on_ready()

        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._link.run(self.receive, greet)
        except ExceptionGroup as group:
            raise first(group) from group

    def receive(self, message: Arrived) -> None:
        """Take a message of the broker to where it belongs; bad ones are answered by an error."""
        if message.topic == self._home:
            if message.payload == b"online":  # it has started, and knows nobody
                self._tasks.create_task(self._introduce_all(), name="introduce devices")
            return
        device = GATEWAY
        try:
            device, channel = topics.split(message.topic)
            if message.retained:
                raise ProtocolError(
                    "retained_message", f"a retained {channel} is ignored: it would come again and again"
                )
            if channel == "audio":
                chunk = AudioChunk.decode(message.payload)
                self._bridge(device).hear(chunk)
            else:
                line = Line.decode(message.payload)
                self._bridge(device).say(line)
        except ProtocolError as error:
            self._complain(device, error)

    def _bridge(self, device: str) -> Bridge:
        """The bridge of a device. Raises ProtocolError when there are too many."""
        if device not in self._bridges:
            if len(self._bridges) >= self._settings.max_devices:
                message = (
                    f"device {device!r} is refused: the gateway serves {self._settings.max_devices} devices already"
                )
                raise ProtocolError("too_many_devices", message)
            self._bridges[device] = self._new_bridge(device)
            self._tasks.create_task(self._serve(device), name=f"serve {device}")
        return self._bridges[device]

    def _new_bridge(self, device: str) -> Bridge:
        async def publish(channel: str, values: Values) -> None:
            if channel == "error":
                self._log_once(device, values["code"], values["message"])
            message = Message(topics.topic(device, channel), encode(values), retain=channel == "state")
            await self._link.outbox.put(message)

        return Bridge(self._settings.url, self._settings.limits, publish, asyncio.get_running_loop().time)

    async def _serve(self, device: str) -> None:
        """Serve one device; should that fail, the others go on, and it begins anew."""
        await self._introduce(device)
        try:
            await self._bridges[device].run()
        except Exception:
            log.exception("device %s failed", device)
            del self._bridges[device]

    async def _introduce_all(self) -> None:
        for device in list(self._bridges):
            await self._introduce(device)

    async def _introduce(self, device: str) -> None:
        if self._settings.discovery_prefix:
            await self._link.outbox.put(discovery.discovery(device, self._settings.discovery_prefix))

    def _complain(self, device: str, error: ProtocolError) -> None:
        self._link.outbox.offer(Message(topics.topic(device, "error"), encode(error_values(error))))
        self._log_once(device, error.code, error.message)

    def _log_once(self, device: str, code: str, message: str) -> None:
        if (device, code) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((device, code))
            log.warning("%s: %s (told once)", device, message)
