from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.errors import ProtocolError
from agent.sessions.conversation import MAX_ITEMS, Called, Calling, Conversation, Item
from agent.sessions.tool_calls import Call
from wavllm_core.engine.api import Exchange, Heard


def talk(*items: tuple[str, str]) -> Conversation:
    conversation = Conversation()
    for number, (role, text) in enumerate(items):
        conversation.add(Item(f"item {number}", role, text))  # type: ignore[arg-type]
    return conversation


def test_items_become_exchanges() -> None:
    conversation = talk(
        ("assistant", "hello"),
        ("system", "it is night"),
        ("user", "one"),
        ("user", "two"),
        ("assistant", "2"),
        ("assistant", "or so"),
        ("user", "three"),
    )
    assert conversation.exchanges() == [
        Exchange(reply="hello"),
        Exchange("one"),
        Exchange("two", reply="2 or so"),
        Exchange("three"),
    ]
    assert conversation.instructions("be kind") == "be kind\nit is night"


def test_with_nothing_to_answer_an_empty_exchange_is_asked_for() -> None:
    assert talk().exchanges() == [Exchange()]
    assert talk(("user", "one"), ("assistant", "1")).exchanges()[-1] == Exchange()


def test_only_the_newest_utterance_keeps_what_was_heard() -> None:
    conversation, heard = Conversation(), Heard(None, np.zeros(1, np.float32), 1.0)
    for name in ("a", "b"):
        conversation.add(Item(name, "user", spoken=True, heard=heard))
    assert [exchange.heard for exchange in conversation.exchanges()] == [None, heard]


def test_items_can_be_put_anywhere() -> None:
    conversation = talk(("user", "one"), ("user", "two"))
    assert conversation.add(Item("x", "user"), "item 0") == "item 0"
    assert conversation.add(Item("y", "user"), "root") is None
    assert conversation.add(Item("z", "user")) == "item 1"
    conversation.remove("item 0")
    assert [item.id for item in conversation.items] == ["y", "x", "item 1", "z"]
    for item_id, previous in (("x", None), ("new", "item 0")):
        with pytest.raises(ProtocolError):
            conversation.check_new(item_id, previous)
    with pytest.raises(ProtocolError):
        conversation.remove("item 0")


@given(roles=st.lists(st.sampled_from(["user", "assistant"]), min_size=MAX_ITEMS, max_size=MAX_ITEMS + 40))
def test_the_oldest_exchanges_go_whole(roles: list[str]) -> None:
    conversation = talk(*((role, str(number)) for number, role in enumerate(roles)))
    assert 0 < len(conversation.items) <= MAX_ITEMS
    assert conversation.items[-1].text == str(len(roles) - 1)
    if len(roles) > MAX_ITEMS and "user" in roles[-MAX_ITEMS:]:
        assert conversation.items[0].role == "user"


def test_a_long_conversation_keeps_its_beginning_for_many_turns() -> None:
    conversation, beginnings = Conversation(), []
    for number in range(5 * MAX_ITEMS):
        conversation.add(Item(str(number), "assistant" if number % 2 else "user", text=str(number)))
        beginnings.append(conversation.items[0].id)
    assert len(set(beginnings)) < len(beginnings) / 16  # so eight exchanges at least have one beginning
    assert len(conversation.items) >= MAX_ITEMS / 2


def test_a_long_chain_of_calls_does_not_take_all_history_with_it() -> None:
    conversation = talk(("user", "watch the oven"))
    for number in range(2 * MAX_ITEMS):
        conversation.add(Item(f"call {number}", "assistant", "call", tool=Calling(str(number), Call("look", "{}"))))
        conversation.add(Item(f"output {number}", "user", "hot", tool=Called(str(number), "hot")))
        assert len(conversation.items) >= min(MAX_ITEMS / 2, 2 * number)
        first = conversation.items[0]
        assert isinstance(first.tool, Calling) or first.text == "watch the oven"  # no output whose call has gone


def test_an_exchange_with_calls_goes_whole() -> None:
    conversation, kept = Conversation(), []
    for number in range(MAX_ITEMS):
        conversation.add(Item(f"question {number}", "user", "hot?"))
        for name in (f"{number} a", f"{number} b"):
            conversation.add(Item(f"call {name}", "assistant", "call", tool=Calling(name, Call("look", "{}"))))
            conversation.add(Item(f"output {name}", "user", "hot", tool=Called(name, "hot")))
        conversation.add(Item(f"answer {number}", "assistant", "hot"))
        kept.append(conversation.items[0].text)
    assert set(kept) == {"hot?"}


def test_system_messages_outlast_the_exchanges() -> None:
    conversation = talk(("system", "be kind"), *[("user", "one"), ("assistant", "1")] * (2 * MAX_ITEMS))
    assert conversation.instructions("") == "be kind"
    assert MAX_ITEMS / 2 <= len(conversation.items) <= MAX_ITEMS


def test_system_messages_alone_are_bounded_too() -> None:
    conversation = talk(*[("system", "be kind")] * (2 * MAX_ITEMS), ("user", "one"))
    assert MAX_ITEMS / 2 <= len(conversation.items) <= MAX_ITEMS
    assert conversation.items[-1].text == "one"


def test_what_is_put_first_stays_where_the_oldest_go() -> None:
    conversation = talk(*[("user", "one"), ("assistant", "1")] * (MAX_ITEMS // 2))
    for item in (Item("summary", "system", "they count"), Item("x", "user", "zero")):
        while len(conversation.items) < MAX_ITEMS:
            conversation.add(Item(f"{item.id} {len(conversation.items)}", "user", "two"))
        conversation.add(item, "root")
        assert conversation.items[0] is item and len(conversation.items) < MAX_ITEMS
