"""Items of the conversation out of what a client wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agent.protocol.items import NewCall, NewCallOutput, NewItem, NewMessage
from agent.sessions.conversation import Called, Calling, Conversation, Item
from agent.sessions.tool_calls import Call, HermesCaller, ToolCaller

PLAIN: Final = HermesCaller()  # how calls that a client tells of are written for a model that makes none itself


def make_item(
    new: NewItem,
    conversation: Conversation,
    caller: ToolCaller | None,
    new_id: Callable[[str], str],
    others: Sequence[Item] = (),
    path: str = "item",
) -> Item:
    """The item, in no conversation yet; a spoken one is still to be heard.

    others: that may hold a call whose output this is
    Raises ProtocolError for the output of a call that there was not.
    """
    item_id, writer = new.id or new_id("item"), caller or PLAIN
    match new:
        case NewMessage():
            return Item(item_id, new.role, new.text, spoken=new.audio is not None)
        case NewCall():
            call = Call(new.name, new.arguments)
            return Item(
                item_id, "assistant", writer.write_call(call), tool=Calling(new.call_id or new_id("call"), call)
            )
        case NewCallOutput():
            conversation.check_call(new.call_id, others, f"{path}.call_id")
            return Item(item_id, "user", writer.write_output(new.output), tool=Called(new.call_id, new.output))
