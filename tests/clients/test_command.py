"""The command line, as a shell sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def wavllm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_names_the_commands() -> None:
    done = wavllm("--help")
    assert done.returncode == 0
    assert all(
        command in done.stdout for command in ("serve", "play", "talk", "demo", "mqtt", "device", "meeting", "voices")
    )


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["play", "no such file.wav"], "wavllm: no such file.wav: no such file\n"),
        (["meeting", "no such file.wav"], "wavllm: no such file.wav: no such file\n"),
        (["voices", "--config", "none.yaml", "list"], "wavllm: none.yaml: cannot be read"),
        (["play", "--text"], "wavllm: --text needs something to say\n"),
        (["play", "--fast"], "wavllm: no such option: --fast\n"),
        (
            ["play", "--text", "hello", "--url", "http://here/"],
            "wavllm: http://here/ is not a WebSocket address",
        ),
        (["serve", "--config", "none.yaml"], "wavllm: none.yaml: cannot be read"),
        (["mqtt", "--broker", "http://here"], "wavllm: http://here is not the address of a broker"),
        (["mqtt", "--url", "http://here"], "wavllm: http://here is not a WebSocket address"),
        (["device", "a/b", "--text", "hello"], "wavllm: device 'a/b': only letters, digits, _ and - make a name"),
        (["device", "kitchen", "no such file.wav"], "wavllm: no such file.wav: no such file\n"),
        (["talk", "--url", "ws://127.0.0.1:9/v1/realtime"], "wavllm: "),
    ],
)
def test_faults_end_in_one_line(arguments: list[str], fault: str) -> None:
    done = wavllm(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(fault)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
