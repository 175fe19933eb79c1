"""docs/protocol.md says what the code does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent

from agent.protocol.catalogue import CLIENT, ERRORS, SERVER, page
from agent.protocol.client_events import PARSERS

ROOT = Path(__file__).parents[2]


def names(*support: str) -> set[str]:
    return {entry.name for entry in (*CLIENT, *SERVER) if entry.support in support}


def types(union: object) -> set[str]:
    return {get_args(model.model_fields["type"].annotation)[0] for model in get_args(get_args(union)[0])}


def test_the_page_is_current() -> None:
    command = [sys.executable, "-m", "agent.protocol.catalogue"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == page() == (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8"), (
        "python -m agent.protocol.catalogue > docs/protocol.md"
    )


def test_every_event_of_the_sdk_has_its_line() -> None:
    known = {entry.name for entry in SERVER}
    assert types(RealtimeServerEvent) <= known
    assert len(known) == len(SERVER)
    asked = {entry.name for entry in CLIENT}
    assert types(RealtimeClientEvent) <= asked


def test_what_is_said_to_be_understood_is_understood() -> None:
    asked = {entry.name for entry in CLIENT if entry.support != "legacy names only"}
    assert set(PARSERS) == asked


def test_every_complaint_of_the_code_is_explained() -> None:
    codes = set()
    for file in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "ProtocolError" and node.args:
                code = node.args[0]
                if isinstance(code, ast.Constant):
                    codes.add(code.value)
    assert codes <= set(ERRORS), codes - set(ERRORS)
    assert set(ERRORS) <= codes, set(ERRORS) - codes
