"""How items come into the conversation and are shown: typed, spoken and told, one at a time.

Acts only when its session tells it to.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

from agent.hearing.audio import Encoder
from agent.hearing.ear import Ear, OpenUtterance, to_ms
from agent.hearing.vad import SAMPLE_RATE
from agent.protocol import server_events as events
from agent.protocol.items import ItemReference, NewItem, NewMessage
from agent.protocol.settings import SessionSettings
from agent.sessions.attribution import Attribution
from agent.sessions.conversation import Item
from agent.sessions.new_items import make_item
from agent.sessions.response import ReplyDue, Surroundings
from agent.sessions.transcripts import Transcripts
from wavllm_core.errors import CoreError


class Items:
    """Those of one session."""

    def __init__(self, around: Surroundings, ear: Ear, who: Attribution, transcripts: Transcripts) -> None:
        self._around, self._ear, self._who, self._transcripts = around, ear, who, transcripts

    async def create(self, new: NewItem, previous_item_id: str | None) -> None:
        """Put in what a client wrote, or said in one piece. Raises ProtocolError, and changes nothing then."""
        around = self._around
        around.conversation.check_new(new.id, previous_item_id)
        item = make_item(new, around.conversation, around.caller, around.new_id)
        if not isinstance(new, NewMessage) or new.audio is None:
            await self.add(item, previous_item_id)
            return
        said = self._ear.take_whole(new.audio, "item.content[0].audio")
        try:
            await self.add(item, previous_item_id)
            failure = await self.hear(said, item)
        finally:
            said.utterance.cancel()
        await self._transcripts.begin(item, failure)

    async def add(self, item: Item, previous_item_id: str | None = None) -> None:
        """Put an item in and tell of it."""
        around = self._around
        before = around.conversation.add(item, previous_item_id)
        item.tokens = around.engine.count_tokens(item.text)
        await around.send(events.item_added(item.to_wire(), before))
        await around.send(events.item_done(item.to_wire(), before))

    async def hear(self, said: OpenUtterance, item: Item) -> str | None:
        """Give the item what was heard, and tell who spoke; returns why not, if not."""
        item.seconds = said.seconds
        audio = self._around.conversation.audio
        audio.begin(item.id)
        audio.add(item.id, b"".join(said.pcm))
        try:
            heard = await said.utterance.hear()
        except CoreError as error:
            return str(error)
        if not item.aside:
            item.heard = heard
            await self._who.tell(item, heard, None if said.start_sample is None else to_ms(said.start_sample))
        return None

    async def retrieve(self, item_id: str, settings: SessionSettings) -> None:
        """Show an item with its sound, as far as it was kept. Raises ProtocolError when there is none."""
        conversation, audio = self._around.conversation, None
        item = conversation.get(item_id)
        if (pcm := conversation.audio.get(item_id)) is not None:
            heard = Encoder(settings.input_format, SAMPLE_RATE)
            encoder = heard if item.spoken else Encoder(settings.output_format)
            audio = base64.b64encode(encoder.push(pcm) + encoder.flush()).decode()
        await self._around.send(events.item_retrieved(item.to_wire(audio)))

    async def delete(self, item_id: str) -> None:
        """Raises ProtocolError when there is none."""
        self._around.conversation.remove(item_id)
        await self._around.send(events.item_deleted(item_id))

    async def given_to(self, due: ReplyDue, given: Sequence[NewItem | ItemReference]) -> ReplyDue:
        """A reply to these instead of the conversation, of which they become no part. Raises ProtocolError."""
        items: list[Item] = []
        around, failure = self._around, due.failure
        for index, new in enumerate(given):
            path = f"response.input[{index}]"
            if isinstance(new, ItemReference):
                items.append(around.conversation.get(new.id, f"{path}.id"))
                continue
            item = make_item(new, around.conversation, around.caller, around.new_id, items, path)
            item.tokens = around.engine.count_tokens(item.text)
            items.append(item)
            if isinstance(new, NewMessage) and new.audio is not None:
                said = self._ear.take_whole(new.audio, f"{path}.content[0].audio")
                failure = failure or await self._overhear(said, item)
        return replace(due, failure=failure, input=items)

    async def _overhear(self, said: OpenUtterance, item: Item) -> str | None:
        """The same as `hear` for what nobody is told of; returns why it is not to be answered, if it is not."""
        try:
            item.heard, item.seconds = await said.utterance.hear(), said.seconds
        except CoreError as error:
            return str(error)
        finally:
            said.utterance.cancel()
        return self._who.refusal(self._who.guess(item.heard))
