from __future__ import annotations

import socket
import sys

import pytest

from clients.demo.run import FOLDER, free_port, page_of, read_script, running_server
from clients.realtime import SAMPLE_RATE, ClientError


def test_the_script_is_a_conversation() -> None:
    lines = read_script(FOLDER / "conversation.json")
    assert len(lines) >= 5
    assert sum(line.waveform is not None for line in lines) >= 5
    assert all((line.text is None) != (line.waveform is None) for line in lines)
    assert sum(len(line.waveform) for line in lines if line.waveform is not None) < 60 * SAMPLE_RATE


def test_a_part_of_a_clip_can_be_said() -> None:
    order = read_script(FOLDER / "home.json")[0]
    assert order.waveform is not None
    assert len(order.waveform) == round(3.6 * SAMPLE_RATE)


def test_every_clip_is_credited() -> None:
    credits_text = (FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    clips = sorted(path.name for path in (FOLDER / "clips").iterdir())
    assert clips
    assert [name for name in clips if f"`{name}`" not in credits_text] == []


def test_a_server_that_does_not_start_is_quoted() -> None:
    command = [sys.executable, "-c", "print('weights missing'); raise SystemExit(3)"]
    fault = r"(?s)ended with status 3.*weights missing"
    with pytest.raises(ClientError, match=fault), running_server(command, port=9):
        pass


def test_a_port_is_the_wanted_one_unless_somebody_listens_there() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(wanted := free_port()) == wanted


def test_the_page_is_at_the_root_of_the_server() -> None:
    assert page_of("ws://127.0.0.1:8710/v1/realtime") == "http://127.0.0.1:8710/"
