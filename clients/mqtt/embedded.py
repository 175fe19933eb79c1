"""A broker inside this process, for a demo or a home without one. Needs the package amqtt."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clients.mqtt.broker import BrokerAddress
from clients.realtime import ClientError

HOST = "127.0.0.1"


@asynccontextmanager
async def embedded_broker(port: int) -> AsyncIterator[BrokerAddress]:
    """Run a broker on the loopback interface, open to every program on this machine.

    Raises ClientError when the port cannot be had, or amqtt is not installed.
    """
    try:
        from amqtt.broker import Broker
        from amqtt.errors import BrokerError
    except ModuleNotFoundError as error:
        raise ClientError("a broker of its own needs one more package: pip install 'wavllm-agent[home]'") from error
    logging.getLogger("transitions").setLevel(logging.WARNING)  # it tells of every state of every client
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    try:
        await broker.start()
    except (BrokerError, OSError) as error:
        raise ClientError(f"no broker can listen on {HOST}:{port}: {error}") from error
    try:
        yield BrokerAddress(HOST, port)
    finally:
        await broker.shutdown()
