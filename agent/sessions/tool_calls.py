"""How one kind of model is told of functions, and how its calls are found in what it writes. Pure.

A model that calls no functions has no `ToolCaller`, and sessions refuse tools then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agent.errors import ToolCallError
from agent.protocol.tools import FunctionTool

CALL, CALL_END = "<tool_call>", "</tool_call>"
OUTPUT, OUTPUT_END = "<tool_response>", "</tool_response>"
MAX_CALL_CHARS: Final = 32_768
TEMPLATE_FILES: Final = ("chat_template.jinja", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Call:
    """The model wants a function called."""

    name: str
    arguments: str  # JSON, an object


class CallReader(Protocol):
    """Reads one reply while it is written."""

    def feed(self, piece: str) -> list[str | Call]:
        """What is certain by now: text for the listener, and calls. Raises ToolCallError on a call nobody can read."""

    def finish(self) -> list[str | Call]:
        """What is left at the end. Raises ToolCallError likewise."""


class ToolCaller(Protocol):
    """What a model was taught about functions."""

    def tell(self, tools: Sequence[FunctionTool]) -> str:
        """What its instructions say about `tools`; they are never empty."""

    def opening(self, tools: Sequence[FunctionTool]) -> str | None:
        """How a reply begins that calls one of these; None: the model cannot be made to."""

    def write_call(self, call: Call) -> str:
        """A call of the past, as part of a reply."""

    def write_output(self, output: str) -> str:
        """What a call gave, as a turn of the user."""

    def phrase(self, output: str) -> str | None:
        """What to say of an output; None: the model is asked."""

    def reader(self, tools: Sequence[FunctionTool]) -> CallReader:
        """For one reply."""


class HermesCaller:
    """JSON between <tool_call> tags, as the chat templates of Hermes and Qwen have it."""

    def tell(self, tools: Sequence[FunctionTool]) -> str:
        """One JSON object a line."""
        described = [
            {"type": "function", "function": {"name": tool.name, "description": tool.description}} for tool in tools
        ]
        for line, tool in zip(described, tools, strict=True):
            line["function"]["parameters"] = json.loads(tool.parameters)  # type: ignore[index]
        lines = "\n".join(json.dumps(line) for line in described)
        example = f'{CALL}{{"name": ..., "arguments": {{...}}}}{CALL_END}'
        return f"Functions you can call:\n<tools>\n{lines}\n</tools>\nTo call one, write {example}"

    def opening(self, tools: Sequence[FunctionTool]) -> str:
        """Up to the name, or behind it where there is but one; no space at the end, as that begins the next token."""
        head = f'{CALL}{{"name":'
        return f'{head} {json.dumps(tools[0].name)}, "arguments":' if len(tools) == 1 else head

    def write_call(self, call: Call) -> str:
        """On one line."""
        return f'{CALL}{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}{CALL_END}'

    def write_output(self, output: str) -> str:
        """As it is."""
        return f"{OUTPUT}{output}{OUTPUT_END}"

    def phrase(self, output: str) -> None:
        """The model finds the words."""

    def reader(self, tools: Sequence[FunctionTool]) -> HermesReader:
        """For calls of these functions."""
        return HermesReader({tool.name for tool in tools})


class HermesReader:
    """Lets text through until a tag may begin, and holds a call until it ends."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._held = ""
        self._fault: ToolCallError | None = None  # told once all that came before it is taken

    def feed(self, piece: str) -> list[str | Call]:
        """See `CallReader`."""
        found: list[str | Call] = []
        try:
            self._raise_fault()
            self._read_on(piece, found)
        except ToolCallError as fault:
            if not found:
                raise
            self._fault = fault
        return found

    def _read_on(self, piece: str, found: list[str | Call]) -> None:
        self._held += piece
        while self._held:
            text, tag, rest = self._held.partition(CALL)
            if not tag:
                kept = _beginning(text)
                found += [text[: len(text) - kept]] if len(text) > kept else []
                self._held = text[len(text) - kept :]
                break
            found += [text.rstrip()] if text.strip() else []
            written, end, after = rest.partition(CALL_END)
            self._held = CALL + rest
            if not end:
                if len(rest) > MAX_CALL_CHARS:
                    raise ToolCallError(f"the model wrote a call of more than {MAX_CALL_CHARS} characters")
                break
            found.append(self._read(written))
            self._held = after

    def finish(self) -> list[str | Call]:
        """A call without its end tag is taken when it is whole: some models end right behind it."""
        self._raise_fault()
        held, self._held = self._held, ""
        if held.startswith(CALL):
            return [self._read(held.removeprefix(CALL))]
        return [held] if held else []

    def _raise_fault(self) -> None:
        if self._fault:
            raise self._fault

    def _read(self, written: str) -> Call:
        try:
            call = json.loads(written)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ToolCallError(f"the model wrote a call that cannot be read: {written.strip()[:200]!r}") from error
        if not isinstance(arguments, dict):
            raise ToolCallError(f"the model called {name!r} with arguments that are no object")
        if name not in self._names:
            raise ToolCallError(f"the model called {name!r}, which there is not")
        return Call(name, json.dumps(arguments))


class PlainReader:
    """For replies that call nothing."""

    def feed(self, piece: str) -> list[str | Call]:
        """All of it is text."""
        return [piece]

    def finish(self) -> list[str | Call]:
        """Nothing was held back."""
        return []


def find_tool_caller(checkpoint: Path | None) -> ToolCaller | None:
    """How the model in this folder calls functions, as its own chat template shows; None: it does not, or nano."""
    for name in TEMPLATE_FILES if checkpoint else ():
        file = checkpoint / name  # type: ignore[operator]
        if file.is_file() and CALL in file.read_text(encoding="utf-8"):
            return HermesCaller()
    return None


def _beginning(text: str) -> int:
    """How many characters at the end may be the beginning of a call, with the space before it."""
    tag = next((size for size in range(len(CALL) - 1, 0, -1) if text.endswith(CALL[:size])), 0)
    return len(text) - len(text[: len(text) - tag].rstrip())
