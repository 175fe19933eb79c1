"""What the model is asked for one reply, from what was said, the settings and what the client wants of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from agent.protocol.errors import ProtocolError
from agent.protocol.response_create import ResponseCreate
from agent.protocol.settings import NO_VOICE, SessionSettings
from agent.protocol.tools import CANNOT_CALL, Forced, FunctionTool, ToolChoice, check_choice, check_names
from agent.sessions.conversation import Called, Item, exchanges, instructions, last_said
from agent.sessions.response import ReplyDue, ReplyPlan, Surroundings
from agent.sessions.tool_calls import ToolCaller
from agent.speech.speaking import SpeechOptions
from agent.voices.naming import seen_by_model
from wavllm_core.engine.api import Exchange, Sampling

AUDIO_TOKENS_PER_S: Final = 12.5


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """What the operator decides about replies."""

    sampling: Sampling  # max_tokens is the most that a client may ask for
    speech: SpeechOptions | None  # None: they cannot be spoken
    caller: ToolCaller | None = None  # None: the model calls no functions


class Planning:
    """For the replies of one conversation."""

    def __init__(self, options: ReplyOptions, around: Surroundings, own: Sequence[FunctionTool]) -> None:
        """own: functions of the server"""
        self._options, self._around, self._own = options, around, own

    def check(self, due: ReplyDue) -> None:
        """Raises ProtocolError when what the client asks for cannot be."""
        asked = due.overrides
        if asked.output == "audio" and self._options.speech is None:
            message = f'response.output_modalities must be ["text"]: {NO_VOICE}'
            raise ProtocolError("invalid_value", message, param="response.output_modalities")
        if asked.tools and not self._options.caller:
            raise ProtocolError("unsupported_parameter", f"response.tools: {CANNOT_CALL}", param="response.tools")
        check_names(asked.tools or (), due.settings.own_functions, "response.tools")
        if asked.tool_choice:
            names = [tool.name for tool in self._offered(due.settings, asked)]
            check_choice(asked.tool_choice, names, "response.tool_choice", forces=due.settings.forces_tools)
            if isinstance(asked.tool_choice, Forced) and not names:
                message = "response.tool_choice: there are no tools that could be called"
                raise ProtocolError("invalid_value", message, param="response.tool_choice")

    def past(self, settings: SessionSettings) -> tuple[str, list[Exchange]]:
        """Instructions, and what was said before the next turn."""
        items = self._around.conversation.items
        told = self._instructions(items, settings.instructions, self._offered(settings, ResponseCreate()))
        return told, self._seen(settings, exchanges(items, waiting=False), _speaker(items))

    def guess(self, settings: SessionSettings, exchange: Exchange) -> tuple[str, list[Exchange], Sampling]:
        """What is going to be asked if this is the next turn."""
        items = self._around.conversation.items
        tools = self._offered(settings, ResponseCreate())
        told = self._instructions(items, settings.instructions, tools)
        history = self._seen(settings, [*exchanges(items, waiting=False), exchange], exchange.speaker)
        sampling = self._limited(settings.max_output_tokens)
        return told, history, replace(sampling, begins=self._opening(_chosen(tools, settings.tool_choice)))

    def plan(self, due: ReplyDue, items: Sequence[Item] | None = None) -> ReplyPlan:
        """The settings as they were, with what was asked of this response.

        items: what it answers, with calls that it has made; None: what the client has given, or all that was said
        """
        again = items is not None
        if items is None:
            items = [*self._around.conversation.items] if due.input is None else due.input
        settings, asked = due.settings, due.overrides
        tools = self._offered(settings, asked)
        chosen = () if again else _chosen(tools, asked.tool_choice or settings.tool_choice)
        own = settings.instructions if asked.instructions is None else asked.instructions
        told = self._instructions(items, own, tools)
        parallel = settings.parallel_tool_calls if asked.parallel_tool_calls is None else asked.parallel_tool_calls
        sampling = self._limited(asked.max_output_tokens or settings.max_output_tokens)
        return ReplyPlan(
            due,
            items,
            told,
            self._seen(settings, exchanges(items), _speaker(items)),
            replace(sampling, begins=self._opening(chosen)),
            self._options.speech if (asked.output or settings.output) == "audio" else None,
            chosen or tools,
            parallel,
            self._count_input(items, self._instructions((), own, tools)),
            self._given(asked, items),
            self._around.conversation.last_id or "root",
        )

    def _seen(self, settings: SessionSettings, history: Sequence[Exchange], asker: int | None) -> list[Exchange]:
        return seen_by_model(history, self._around.conversation.names, settings.speakers.memory, asker)

    def _given(self, asked: ResponseCreate, items: Sequence[Item]) -> str | None:
        """What the client wants said, or what came of a call where the model has no words for that."""
        last, caller = items[-1].tool if items else None, self._options.caller
        if asked.say is None and caller and isinstance(last, Called):
            return caller.phrase(last.output)
        return asked.say

    def _instructions(self, items: Sequence[Item], own: str, tools: Sequence[FunctionTool]) -> str:
        told, caller = instructions(items, own), self._options.caller
        return "\n".join(filter(None, [told, caller.tell(tools)])) if caller and tools else told

    def _limited(self, wanted: int | Literal["inf"]) -> Sampling:
        most = self._options.sampling.max_tokens
        return replace(self._options.sampling, max_tokens=most if wanted == "inf" else min(wanted, most))

    def _count_input(self, items: Sequence[Item], told: str) -> tuple[int, int]:
        """Tokens of text and of audio that a reply is made from, were nothing dropped; `told` are no items."""
        text = sum(item.tokens for item in items)  # counted once, as many together take seconds
        seconds = sum(item.seconds for item in items if item.heard)
        return self._around.engine.count_tokens(told) + text, round(AUDIO_TOKENS_PER_S * seconds)

    def _offered(self, settings: SessionSettings, asked: ResponseCreate) -> Sequence[FunctionTool]:
        """The functions that a response may call: the client's, and in the conversation the server's own."""
        choice = asked.tool_choice or settings.tool_choice
        tools = settings.tools if asked.tools is None else asked.tools
        own = () if asked.out_of_band else self._own
        return () if choice == "none" else (*tools, *own)

    def _opening(self, chosen: Sequence[FunctionTool]) -> str:
        """What a reply is made to begin with."""
        caller = self._options.caller
        return (caller.opening(chosen) if caller and chosen else None) or ""


def _chosen(tools: Sequence[FunctionTool], choice: ToolChoice) -> Sequence[FunctionTool]:
    """The functions of which one has to be called; none: the model may do as it likes."""
    return [tool for tool in tools if choice.name in (None, tool.name)] if isinstance(choice, Forced) else ()


def _speaker(items: Sequence[Item]) -> int | None:
    """Whose question it is."""
    said = last_said(items)
    return said.speaker if said else None
