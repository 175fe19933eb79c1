from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from clients.mqtt.outbox import WINDOW, Outbox
from clients.mqtt.topics import Message


def messages(count: int) -> list[Message]:
    return [Message(str(number), b"") for number in range(count)]


class Broken(Exception):
    pass


@given(count=st.integers(1, 60), lives=st.lists(st.integers(0, 30), max_size=5))
def test_whatever_breaks_all_messages_arrive_and_in_order(count: int, lives: list[int]) -> None:
    """Each connection confirms so many messages and then breaks with others under way; the last one holds."""
    arrived: list[str] = []

    async def run() -> None:
        outbox = Outbox()
        for message in messages(count):
            outbox.offer(message)
        for life in lives:
            left = life

            async def breaking(message: Message) -> None:
                nonlocal left
                arrived.append(message.topic)
                left -= 1
                if left < 0:
                    raise Broken

            try:
                async with asyncio.timeout(0.001):
                    await outbox.deliver(breaking)
            except (ExceptionGroup, TimeoutError):
                pass
        delivered = asyncio.Event()

        async def holding(message: Message) -> None:
            arrived.append(message.topic)
            if message.topic == str(count - 1):
                delivered.set()

        async with asyncio.TaskGroup() as tasks:
            delivering = tasks.create_task(outbox.deliver(holding))
            if not outbox.empty:
                await delivered.wait()
            delivering.cancel()

    asyncio.run(run())
    firsts = list(dict.fromkeys(arrived))
    assert firsts == [str(number) for number in range(count)]


async def test_no_more_than_a_window_is_under_way_and_a_full_box_makes_wait() -> None:
    outbox, under_way, confirm = Outbox(max_messages=WINDOW + 10), [0], asyncio.Event()

    async def publish(message: Message) -> None:
        under_way[0] += 1
        await confirm.wait()

    for message in messages(WINDOW + 10):
        outbox.offer(message)
    outbox.offer(Message("not worth it", b""))
    assert outbox.dropped == 1
    async with asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(outbox.deliver(publish))
        putting = tasks.create_task(outbox.put(Message("last", b"")))
        for _ in range(100):
            await asyncio.sleep(0)
        assert under_way == [WINDOW]
        assert not putting.done()
        confirm.set()
        await putting
        while not outbox.empty:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert under_way == [WINDOW + 11]
        delivering.cancel()
