"""The command line, as a shell sees it."""

from __future__ import annotations

import http.client
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.commands.addresses import MICROPHONE, address_here, is_loopback

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


@pytest.mark.parametrize(
    ("listens_on", "told", "for_this_machine_only"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.1.1", "127.0.1.1", True),
        ("localhost", "localhost", True),
        ("::1", "[::1]", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("::", "[::1]", False),
        ("192.168.1.5", "192.168.1.5", False),
        ("fd00::5", "[fd00::5]", False),
        ("kitchen.example", "kitchen.example", False),
    ],
)
def test_a_server_is_where_a_browser_can_open_it(listens_on: str, told: str, for_this_machine_only: bool) -> None:
    assert (address_here(listens_on), is_loopback(listens_on)) == (told, for_this_machine_only)


@pytest.mark.timeout(60)
def test_a_server_for_the_network_tells_an_address_of_this_machine_and_what_a_microphone_needs() -> None:
    command = [sys.executable, "-m", "agent", "serve", "--host", "0.0.0.0", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        try:
            ready, page, more = (server.stdout.readline().strip() for _ in range(3))
            url = page.removeprefix("In a browser: ")
            port = urlsplit(url).port
            with closing(http.client.HTTPConnection("127.0.0.1", port or 0)) as connection:
                connection.request("GET", "/")
                assert connection.getresponse().status == http.HTTPStatus.OK
        finally:
            server.terminate()
    assert ready.endswith(f": ws://127.0.0.1:{port}/v1/realtime")
    assert (url, more) == (f"http://127.0.0.1:{port}/", MICROPHONE)
