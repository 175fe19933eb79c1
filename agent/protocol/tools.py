"""Functions that a client offers to the model, as session.update and response.create carry them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import MAX_ID_CHARS, Fields

MAX_TOOLS: Final = 64
MAX_TOOL_CHARS: Final = 16_384  # of one tool's JSON
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
CANNOT_FORCE: Final = "the loaded model calls functions of its own accord alone"
CANNOT_CALL: Final = "the loaded model calls no tools"


@dataclass(frozen=True, slots=True)
class Forced:
    """The model has to call a function."""

    name: str | None = None  # this one; None: any

    def to_wire(self) -> Any:
        """As the protocol writes it."""
        return {"type": "function", "name": self.name} if self.name else "required"


ToolChoice = Literal["auto", "none"] | Forced


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """What a client can do for the model."""

    name: str
    description: str
    parameters: str  # JSON schema, as compact JSON

    def to_wire(self) -> dict[str, Any]:
        """The tool object of the protocol."""
        tool = {"type": "function", "name": self.name, "description": self.description}
        return {**tool, "parameters": json.loads(self.parameters)}


def check_names(tools: Sequence[FunctionTool], own: Collection[str], at: str) -> None:
    """Raises ProtocolError when a client, at this path, offers a function by the name of one of the server's own."""
    for index, tool in enumerate(tools):
        if tool.name in own:
            message = f"{at}[{index}].name: the server has a function {tool.name!r} of its own; call yours otherwise"
            raise ProtocolError("invalid_value", message, param=f"{at}[{index}].name")


def read_tools(fields: Fields) -> tuple[FunctionTool, ...] | None:
    """The list under "tools"; None: it is not there. Raises ProtocolError."""
    if "tools" not in fields:
        return None
    tools = tuple(_read_tool(tool) for tool in fields.objects("tools", MAX_TOOLS))
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            at = f"{fields.at('tools')}[{index}].name"
            raise ProtocolError("invalid_value", f"{at}: there are two tools named {name!r}", param=at)
    return tools


def read_tool_choice(fields: Fields) -> ToolChoice | None:
    """How the model may use its tools; None: it is not said. Raises ProtocolError on what cannot be kept."""
    if "tool_choice" not in fields:
        return None
    if isinstance(fields.value("tool_choice"), dict):
        wanted = fields.object("tool_choice")
        wanted.choice("type", ["function"])
        return Forced(wanted.text("name", MAX_ID_CHARS))
    choice = fields.choice("tool_choice", ["auto", "none", "required"])
    return Forced() if choice == "required" else choice


def check_choice(choice: ToolChoice, names: Collection[str], at: str, *, forces: bool) -> None:
    """Raises ProtocolError when a choice, at this path, cannot be kept with the functions of these names."""
    if not isinstance(choice, Forced):
        return
    if not forces:
        raise ProtocolError("unsupported_parameter", f'{at}: {CANNOT_FORCE}; say "auto" or "none"', param=at)
    if choice.name and choice.name not in names:
        raise ProtocolError("invalid_value", f"{at}.name: there is no tool {choice.name!r}", param=f"{at}.name")


def _read_tool(fields: Fields) -> FunctionTool:
    kind = fields.text("type", 64)
    if kind != "function":
        message = f'{fields.at("type")} must be "function", not {json.dumps(kind)}: this server reaches no MCP servers'
        raise ProtocolError("unsupported_parameter", message, param=fields.at("type"))
    if not NAME.fullmatch(fields.text("name")):
        raise fields.wrong("name", "1 to 64 letters, digits, _ and -")
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}
    if fields.values.get("parameters") is not None:
        parameters = fields.object("parameters").values
        if parameters.get("type", "object") != "object":
            raise fields.wrong("parameters", 'a JSON schema of type "object"')
    schema = json.dumps(parameters, separators=(",", ":"))
    if len(schema) > MAX_TOOL_CHARS:
        message = f"{fields.at('parameters')} has {len(schema)} characters of JSON; the limit is {MAX_TOOL_CHARS}"
        raise ProtocolError("string_above_max_length", message, param=fields.at("parameters"))
    return FunctionTool(fields.text("name"), fields.optional_text("description", MAX_TOOL_CHARS) or "", schema)
