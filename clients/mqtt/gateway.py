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
from clients.mqtt import discovery, hermes, topics
from clients.mqtt.bridge import Bridge, BridgeLimits
from clients.mqtt.broker import Arrived, BrokerAddress, Link
from clients.mqtt.calls import read_offer, read_result
from clients.mqtt.site import Site, SiteLimits
from clients.mqtt.store import Memory, Store
from clients.mqtt.topics import GATEWAY, ROOT, AudioChunk, Line, Message, Values, encode, error_values
from clients.realtime import DEFAULT_URL, ClientError
from clients.retry import Backoff, first

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
    sites: tuple[str, ...] = ()  # of Rhasspy that are served over Hermes; others are refused
    site_limits: SiteLimits = field(default_factory=SiteLimits)
    limits: BridgeLimits = field(default_factory=BridgeLimits)
    broker_backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("ws", "wss"):
            raise ClientError(f"{self.url} is not a WebSocket address")
        if set(self.discovery_prefix) & set("+#"):
            raise ClientError(f"{self.discovery_prefix} is not a prefix of topics: it holds + or #")
        for site in self.sites:
            try:
                topics.check_device(site)
            except ProtocolError as error:
                raise ClientError(f"site {site!r}: {error.message}") from error
        if len(set(self.sites)) > self.max_devices:
            raise ClientError(f"{len(set(self.sites))} sites are more than the {self.max_devices} devices to be served")


class Gateway:
    """Lets devices in, one bridge each."""

    def __init__(self, address: BrokerAddress, settings: GatewaySettings, store: Store | None = None) -> None:
        """store: what outlives this gateway; None: nothing does"""
        self._store = store
        self._settings = settings
        self._home = f"{settings.discovery_prefix}/status" if settings.discovery_prefix else None
        subscriptions = {f"{ROOT}/+/{channel}": 1 for channel in topics.UP} | ({self._home: 1} if self._home else {})
        subscriptions |= dict.fromkeys(hermes.subscriptions(settings.sites), 0)  # what is late is of no use there
        will = Message(STATUS, b"offline", retain=True)
        self._link = Link(
            address, CLIENT_ID, subscriptions, persistent=True, will=will, backoff=settings.broker_backoff
        )
        self._bridges: dict[str, Bridge] = {}
        self._sites: dict[str, Site] = {}
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
                for site in self._settings.sites:  # first: they may not be refused
                    self._bridge(site)
                self._recall()
                await self._link.run(self.receive, greet)
        except ExceptionGroup as group:
            raise first(group) from group

    def _recall(self) -> None:
        """Go on where an earlier gateway ended: deliver what was answered, answer what was asked."""
        waiting, replies = self._store.owed() if self._store else ([], [])
        for device, reply in replies:
            self._link.outbox.offer(self._message(device, "reply", reply))
        others = [device for device in waiting if device not in self._bridges]
        for device in others[: self._settings.max_devices - len(self._bridges)]:
            self._bridge(device)

    def _message(self, device: str, channel: str, values: Values) -> Message:
        receipt = Memory(self._store, device).receipt(values["id"]) if channel == "reply" else None
        return Message(topics.topic(device, channel), encode(values), channel == "state", receipt)

    def receive(self, message: Arrived) -> None:
        """Take a message of the broker to where it belongs; bad ones are answered by an error."""
        if message.topic == self._home:
            if message.payload == b"online":  # it has started, and knows nobody
                self._tasks.create_task(self._introduce_all(), name="introduce devices")
            return
        if message.topic.startswith(f"{hermes.ROOT}/"):
            self._receive_hermes(message)
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
            elif channel == "mute":
                muted = topics.read_switch(message.payload)
                self._bridge(device).mute(muted)
            elif channel == "tools":
                offer = read_offer(message.payload)
                self._bridge(device).offer(offer)
            elif channel == "result":
                result = read_result(message.payload)
                self._bridge(device).answer(result)
            else:
                line = Line.decode(message.payload)
                self._bridge(device).say(line)
        except ProtocolError as error:
            self._complain(device, error)

    def _receive_hermes(self, message: Arrived) -> None:
        """The same of a message of Rhasspy."""
        site = hermes.site_of_audio(message.topic)
        try:
            if message.retained:
                raise ProtocolError("retained_message", f"a retained {message.topic} is ignored")
            if site is None:
                self._command(hermes.parse_command(message.topic, message.payload))
            elif message.topic.endswith("/playFinished"):
                self._sites[site].finished(hermes.parse_finished(message.payload))
            else:
                self._sites[site].frame(hermes.read_wav(message.payload))
        except ProtocolError as error:
            about = {"error": error.message, "context": message.topic, "siteId": site, "sessionId": None}
            part = hermes.component(message.topic)
            self._link.outbox.offer(Message(f"{hermes.ROOT}/error/{part}", encode(about)))
            self._log_once(site or hermes.ROOT, error.code, error.message)

    def _command(self, command: hermes.Command) -> None:
        if not command.site:
            for site in self._sites.values():
                site.command(command)
        elif command.site in self._sites:
            self._sites[command.site].command(command)
        else:
            told = topics.shown(command.site)
            self._log_once(told, "unknown_site", "is none of the sites that are served (--hermes-site), and is ignored")

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
        clock = asyncio.get_running_loop().time

        async def publish(channel: str, values: Values) -> None:
            if channel == "error":
                self._log_once(device, values["code"], values["message"])
            await self._link.outbox.put(self._message(device, channel, values))
            if device in self._sites:
                await self._sites[device].told(channel, values)

        async def publish_hermes(topic: str, payload: bytes) -> None:
            await self._link.outbox.put(Message(topic, payload))

        memory, remembered = Memory(self._store, device), self._store.load(device) if self._store else None
        if device not in self._settings.sites:
            return Bridge(self._settings.url, self._settings.limits, publish, clock, None, memory, remembered)

        async def voice(reply_id: str, pcm: bytes) -> None:
            await self._sites[device].voice(reply_id, pcm)

        bridge = Bridge(self._settings.url, self._settings.limits, publish, clock, voice, memory, remembered)
        self._sites[device] = Site(device, bridge, publish_hermes, clock, self._settings.site_limits)
        return bridge

    async def _serve(self, device: str) -> None:
        """Serve one device; should that fail, the others go on, and it begins anew."""
        await self._introduce(device)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._bridges[device].run(), name=f"bridge {device}")
                if device in self._sites:
                    tasks.create_task(self._sites[device].run(), name=f"site {device}")
        except Exception:
            log.exception("device %s failed", device)
            del self._bridges[device]
            if device in self._settings.sites:
                self._bridge(device)

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
