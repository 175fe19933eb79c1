from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.errors import ProtocolError
from agent.sessions.conversation import MAX_ITEMS, Conversation, Item
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
