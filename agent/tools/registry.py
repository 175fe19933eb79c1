"""Functions that the server itself carries out: arguments are checked, time is limited, and not everybody may.

A call always comes to an output, in JSON; what went wrong stands there under `error`. Knows neither model nor client.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match

from agent.errors import ToolError
from agent.protocol.tools import FunctionTool
from agent.sessions.tool_calls import Call

MAX_OUTPUT_CHARS: Final = 16_384
NOT_ALLOWED: Final = "not_allowed"

Output = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tool:
    """One function; `run` takes arguments that fit `parameters`, and raises ToolError to say what went wrong."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # JSON schema of an object
    run: Callable[[Mapping[str, Any]], Awaitable[Output]]

    @property
    def offered(self) -> FunctionTool:
        """As the model is told of it."""
        return FunctionTool(self.name, self.description, json.dumps(self.parameters, separators=(",", ":")))


class Registry:
    """What there is to call, and who may call what; of clients' functions, too."""

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        allowed: Mapping[str, Sequence[str]] | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        """allowed: who may call a function, by its name; nobody is kept from one that is not there

        Raises ValueError when a tool's parameters are no JSON schema, or two tools have one name.
        """
        self._tools: dict[str, Tool] = {}
        self._allowed, self._timeout_s = dict(allowed or {}), timeout_s
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"there are two tools named {tool.name!r}")
            try:
                Draft202012Validator.check_schema(tool.parameters)
            except SchemaError as error:
                raise ValueError(f"the parameters of {tool.name!r} are no JSON schema: {error.message}") from error
            self._tools[tool.name] = tool

    @property
    def offered(self) -> tuple[FunctionTool, ...]:
        """What the model is told of."""
        return tuple(tool.offered for tool in self._tools.values())

    def decides(self, call: Call, speaker: str | None) -> bool:
        """Whether the server has the answer to a call: it carries it out, or refuses it."""
        return call.name in self._tools or not self._may(call.name, speaker)

    async def carry_out(self, call: Call, speaker: str | None) -> str:
        """The output of a call that `decides`; never raises for what a tool or the model does wrong."""
        try:
            async with asyncio.timeout(self._timeout_s):
                output = json.dumps(await self._run(call, speaker))
        except ToolError as error:
            output = _failure(str(error), error.code)
        except TimeoutError:
            output = _failure(f"{call.name} took more than {self._timeout_s:g} s", "timeout")
        if len(output) > MAX_OUTPUT_CHARS:
            output = _failure(
                f"{call.name} gave {len(output)} characters; the limit is {MAX_OUTPUT_CHARS}", "too_large"
            )
        return output

    async def _run(self, call: Call, speaker: str | None) -> Output:
        if not self._may(call.name, speaker):
            names = " or ".join(self._allowed[call.name]) or "nobody"
            raise ToolError(f"only {names} may do that", NOT_ALLOWED)
        tool = self._tools[call.name]
        arguments = json.loads(call.arguments)
        fault = best_match(Draft202012Validator(tool.parameters).iter_errors(arguments))
        if fault is not None:
            where = ".".join(str(part) for part in fault.absolute_path)
            raise ToolError(f"{where}: {fault.message}" if where else fault.message, "invalid_arguments")
        return await tool.run(arguments)

    def _may(self, name: str, speaker: str | None) -> bool:
        return name not in self._allowed or speaker in self._allowed[name]


def _failure(why: str, code: str) -> str:
    log.warning("a tool failed: %s", why)
    return json.dumps({"error": why, "code": code})
