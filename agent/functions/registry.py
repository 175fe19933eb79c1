"""Functions that the server itself carries out: arguments are checked first, and time is limited.

A call always comes to an outcome, whatever went wrong. Knows neither model nor client nor who asks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match

from agent.errors import FunctionError
from agent.protocol.tools import FunctionTool
from agent.sessions.tool_calls import Call

MAX_OUTPUT_CHARS: Final = 16_384

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """By which call, and when."""

    call_id: str
    now_s: float  # Unix time


@dataclass(frozen=True, slots=True)
class Function:
    """Something to call; `run` takes arguments that fit `parameters`, and raises FunctionError."""

    name: str
    description: str
    parameters: Values  # JSON schema of an object
    run: Callable[[Values, Asked], Awaitable[Values]]

    @property
    def offered(self) -> FunctionTool:
        """As the model is told of it."""
        return FunctionTool(self.name, self.description, json.dumps(self.parameters, separators=(",", ":")))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call."""

    output: str  # JSON
    code: str | None = None  # of what went wrong; None: nothing did
    message: str | None = None

    @classmethod
    def failure(cls, code: str, message: str) -> Outcome:
        """The model is told, too."""
        return cls(json.dumps({"error": message, "code": code}), code, message)


class Registry:
    """What there is to call."""

    def __init__(self, functions: Iterable[Function], timeout_s: float) -> None:
        """Raises ValueError when parameters are no JSON schema, or two functions have one name."""
        self._functions: dict[str, Function] = {}
        self._timeout_s = timeout_s
        for function in functions:
            if function.name in self._functions:
                raise ValueError(f"there are two functions named {function.name!r}")
            try:
                Draft202012Validator.check_schema(function.parameters)
            except SchemaError as error:
                raise ValueError(f"the parameters of {function.name!r} are no JSON schema: {error.message}") from error
            self._functions[function.name] = function

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    @property
    def offered(self) -> tuple[FunctionTool, ...]:
        """What the model is told of."""
        return tuple(function.offered for function in self._functions.values())

    async def carry_out(self, call: Call, asked: Asked) -> Outcome:
        """Of a function that is there; never raises for what it or the model does wrong."""
        try:
            async with asyncio.timeout(self._timeout_s):
                function = self._functions[call.name]
                output = json.dumps(await function.run(_check(function, call.arguments), asked))
        except FunctionError as error:
            return Outcome.failure(error.code, str(error))
        except TimeoutError:
            return Outcome.failure("timeout", f"{call.name} took more than {self._timeout_s:g} s")
        if len(output) > MAX_OUTPUT_CHARS:
            message = f"{call.name} gave {len(output)} characters; the limit is {MAX_OUTPUT_CHARS}"
            return Outcome.failure("too_large", message)
        return Outcome(output)


def _check(function: Function, written: str) -> Values:
    """The arguments. Raises FunctionError, naming the one that does not fit."""
    try:
        arguments: Values = json.loads(written, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FunctionError("invalid_arguments", f"the arguments are not JSON: {error}") from error
    fault = best_match(Draft202012Validator(function.parameters).iter_errors(arguments))
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path)
        raise FunctionError("invalid_arguments", f"{where}: {fault.message}" if where else fault.message)
    return arguments


def _refuse(constant: str) -> NoReturn:
    """Python reads NaN and Infinity, which are no JSON and fit any limit."""
    raise ValueError(f"{constant} is no number")
