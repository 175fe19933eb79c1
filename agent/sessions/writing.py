"""Has the model write a response, and tells what is written, each in a task of its own that reports to the session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import partial

from agent.sessions.generation import ReplyReport, begin_with, quote, read_reply, speak_reply, write_reply
from agent.sessions.response import Response, Surroundings
from agent.sessions.tool_calls import Call, PlainReader
from agent.speech.speaking import speak
from agent.voices.naming import name_speakers
from wavllm_core.engine.api import Context
from wavllm_core.errors import CapacityError


class Writing:
    """For the responses of one conversation."""

    def __init__(
        self,
        context: Context,
        tasks: asyncio.TaskGroup,
        report: Callable[[ReplyReport], Awaitable[None]],
        around: Surroundings,
        timer: Callable[[], float],
    ) -> None:
        """timer: the clock that audio is paced by"""
        self._context, self._tasks, self._report, self._around, self._timer = context, tasks, report, around, timer

    def begin(self, response: Response) -> None:
        """What was written before is told to its end; else the model is asked."""
        if response.draft.writer:
            self._tell(response)
            return
        response.context = self._open_context() if response.out_of_band else self._context
        self.ask(response)

    def ask(self, response: Response) -> None:
        """Have the model write, for the first time or when the server has answered its calls."""
        response.context = context = response.context or self._context
        work = response.draft.write(self._written(response, context))
        response.draft.writer = writer = self._tasks.create_task(work, name=f"write {response.id}")
        if context is not self._context:
            writer.add_done_callback(lambda _: context.close())
        self._tell(response)

    def _tell(self, response: Response) -> None:
        """Tell what is written while it is."""
        response.busy = True
        plan, draft = response.plan, response.draft
        if plan.speech:
            pieces = partial(speak, options=plan.speech, pace=response.pace, clock=self._timer)
            work = speak_reply(response.id, draft, plan.told, pieces, self._report)
        else:
            work = write_reply(response.id, draft, plan.told, self._report)
        response.task = self._tasks.create_task(work, name=f"reply {response.id}")

    def _open_context(self) -> Context:
        """For a response out of band; where there is no room, it waits for the conversation's own replies."""
        try:
            return self._around.engine.open_context()
        except CapacityError:
            return self._context

    def _written(self, response: Response, context: Context) -> AsyncGenerator[str | Call, None]:
        plan, caller = response.plan, self._around.caller
        reader = caller.reader(plan.tools) if caller and plan.tools and plan.given is None else PlainReader()
        if plan.given is not None:
            return read_reply(quote(plan.given), reader, parallel_calls=plan.parallel_calls)
        sampling = replace(plan.sampling, max_tokens=plan.sampling.max_tokens - response.tokens)
        written = context.reply(plan.instructions, plan.history, sampling)
        if sampling.begins:
            written = begin_with(sampling.begins, written)
        if names := self._around.conversation.names:
            written = name_speakers(written, names)
        return read_reply(written, reader, parallel_calls=plan.parallel_calls)
