"""A connection to an MQTT broker that comes back: for the gateway and for devices.

Owns the address, the reconnecting and what happens first on every connection. Does not know what the
messages mean.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from aiomqtt import Client, MqttCodeError, MqttError, Will
from paho.mqtt.reasoncodes import ReasonCode

from clients.mqtt.outbox import WINDOW, Outbox
from clients.mqtt.topics import Message
from clients.realtime import ClientError
from clients.retry import Backoff, first

PASSWORD_VARIABLE: Final = "WAVLLM_MQTT_PASSWORD"
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
KEEPALIVE_S: Final = 20
FAREWELL_S: Final = 2.0
MAX_ARRIVED: Final = 4096  # messages not yet looked at; then the newest is dropped, with a warning
HOPELESS: Final = (
    "Unsupported protocol version",
    "Client identifier not valid",
    "Bad user name or password",
    "Not authorized",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is, and who we are to it."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_broker(url: str, password: str | None = None, ca: Path | None = None) -> BrokerAddress:
    """Read mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS. Raises ClientError when it is something else.

    ca: certificates to trust instead of the system's
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ClientError(f"{url} is not the address of a broker: {error}") from error
    if parts.scheme not in PORTS or not host or parts.path.strip("/") or parts.query:
        raise ClientError(f"{url} is not the address of a broker: write mqtt://HOST:PORT or mqtts://HOST:PORT")
    if parts.password is not None:
        raise ClientError(f"the password of the broker belongs into {PASSWORD_VARIABLE}, not into its address")
    if ca is not None and parts.scheme != "mqtts":
        raise ClientError(f"{url} is without TLS, so certificates make no sense: write mqtts://")
    user = unquote(parts.username) if parts.username else None
    if password is not None and user is None:
        raise ClientError(f"{PASSWORD_VARIABLE} is set, but {url} names no user: write mqtt://USER@HOST")
    tls = _trust(ca) if parts.scheme == "mqtts" else None
    return BrokerAddress(host, port or PORTS[parts.scheme], user, password, tls)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message from the broker."""

    topic: str
    payload: bytes
    retained: bool  # it lay there before we subscribed


class Link:
    """Publishes what is in `outbox` and hands on what arrives, over as many connections as it takes.

    persistent: the broker keeps what arrives for us while we are away
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        topics: Mapping[str, int],
        *,
        persistent: bool = False,
        will: Message | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """topics: what to subscribe to, and with which QoS"""
        self.outbox = Outbox()
        self._address, self._client_id, self._topics = address, client_id, topics
        self._persistent, self._will = persistent, will
        self._backoff = backoff or Backoff()
        self._client: Client | None = None  # while connected

    async def run(self, receive: Callable[[Arrived], None], greet: Callable[[], Awaitable[None]]) -> None:
        """Stay connected until cancelled; then say the will in person, and leave.

        receive: told of every message, in order; must not wait
        greet: called on each new connection, once subscribed
        Raises ClientError when the broker refuses us for good.
        """
        pauses_s = self._backoff.pauses_s()
        told = False
        while True:
            try:
                async with self._new_client() as client:
                    log.info("connected to the broker at %s", self._address)
                    pauses_s, told = self._backoff.pauses_s(), False
                    await self._serve(client, receive, greet)
            except* MqttError as errors:
                problem = first(errors)
            if _is_hopeless(problem):
                raise ClientError(f"the broker at {self._address} refuses us: {problem}")
            if not told:
                log.warning("no connection to the broker at %s: %s; trying on", self._address, problem)
            told = True
            await asyncio.sleep(next(pauses_s))

    async def cast(self, message: Message) -> bool:
        """Publish with QoS 0, now or never; returns whether it left."""
        if self._client is None:
            return False
        try:
            await self._client.publish(message.topic, message.payload, qos=0)
        except MqttError:
            return False
        return True

    async def _serve(
        self, client: Client, receive: Callable[[Arrived], None], greet: Callable[[], Awaitable[None]]
    ) -> None:
        async def publish(message: Message) -> None:
            await client.publish(message.topic, message.payload, qos=1, retain=message.retain)

        async def read() -> None:
            async for message in client.messages:
                if any(message.topic.matches(topic) for topic in self._topics):  # amqtt sends others', too
                    receive(Arrived(message.topic.value, bytes(message.payload), message.retain))

        self._client = client
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read(), name="read from the broker")
                await client.subscribe(list(self._topics.items()))
                tasks.create_task(self.outbox.deliver(publish), name="publish to the broker")
                await greet()
        except asyncio.CancelledError:
            await self._say_farewell(client)
            raise
        finally:
            self._client = None

    async def _say_farewell(self, client: Client) -> None:
        if self._will is None:
            return
        with suppress(MqttError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await client.publish(self._will.topic, self._will.payload, qos=1, retain=self._will.retain)

    def _new_client(self) -> Client:
        will = Will(self._will.topic, self._will.payload, 1, self._will.retain) if self._will else None
        client = Client(
            self._address.host,
            self._address.port,
            identifier=self._client_id,
            username=self._address.user,
            password=self._address.password,
            tls_context=self._address.tls,
            will=will,
            clean_session=not self._persistent,
            keepalive=KEEPALIVE_S,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # Nagle's algorithm costs 40 ms a message
            max_queued_incoming_messages=MAX_ARRIVED,
        )
        client.pending_calls_threshold = WINDOW + 1  # more than that would be a surprise
        return client


def _is_hopeless(error: BaseException) -> bool:
    """Whether somebody has to change something before another attempt makes sense."""
    if isinstance(error, MqttCodeError):
        return isinstance(error.rc, ReasonCode) and error.rc.getName() in HOPELESS
    return "CERTIFICATE_VERIFY_FAILED" in str(error)  # all that is left of the exception's class


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(f"{ca}: not a file of certificates ({error})") from error
