from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import AgentConfig, load_config
from agent.errors import ConfigError
from agent.hearing.vad import WebRtcVad
from agent.speech.voice import find_voice
from agent.transport.server import build_options

ROOT = Path(__file__).parents[2]


def test_nano_is_the_default() -> None:
    assert load_config(ROOT / "configs/nano.yaml") == AgentConfig() == load_config(None)


def test_a_file_may_be_partial_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("")
    assert load_config(path) == AgentConfig()
    path.write_text("model: {checkpoint: some/folder}\nturns: {threshold: 1}\nreply: {instructions: Hi.}")
    config = load_config(path)
    assert config.model.checkpoint == Path("some/folder")
    options = build_options(config, WebRtcVad, find_voice)
    assert options.settings.turn_detection is not None
    assert options.settings.turn_detection.threshold == 1
    assert options.settings.instructions == "Hi."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sever: {}", "sever: there is no such key"),
        ("server: {prot: 1}", "server.prot: there is no such key"),
        ("server: {port: '8710'}", "server.port: "),
        ("server: {port: 99999}", "not 99999"),
        ("turns: {create_response: 1}", "turns.create_response: "),
        ("turns: []", "turns: "),
        ("model: {dtype: int8}", "model.dtype: "),
        ("model: {kv_mib: 0, speculations: -1}", "model.speculations: "),
        ("[1]", "the file: "),
        ("server: {", "is not YAML"),
        ("turns: {threshold: 3}\nreply: {max_tokens: 0}", "reply.max_tokens: "),
        ("voice: {program: ''}", "voice.program"),
        ("voice: {language: '--path=/tmp'}", "voice.language: "),
        ("voice: {lead_ms: 50}", "greater than or equal to 200"),
        ("voice: {timeout_ms: 0}", "voice.timeout_ms: "),
        ("functions: {own: [clock]}", "functions.own.0: "),
        ("functions: {timeout_s: 0}", "functions.timeout_s: "),
        (
            "functions: {allowed: {brew: anybody}}",
            "functions.allowed.brew: Value error, must be everybody, enrolled, or",
        ),
        ("functions: {allowed: {brew: ['']}}", "functions.allowed.brew: "),
        ("functions: {allowed: {'make coffee': enrolled}}", "functions.allowed.make coffee"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(raised.value).startswith(str(path))
    assert words in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_functions_of_the_server_and_who_may(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("functions: {own: [time, timers], allowed: {brew: [Anna], get_time: enrolled, light: everybody}}")
    functions = build_options(load_config(path), WebRtcVad, find_voice).functions
    assert functions.own == (), "nano calls none"
    assert "functions.own: the loaded model cannot call time and timers, so they are left out" in caplog.text
    assert functions.permissions.by_function == {"brew": ("Anna",), "get_time": "enrolled", "light": "everybody"}


@pytest.mark.parametrize("speakers", ["policy: 'off'", "registry: null"])
def test_functions_for_people_whom_nobody_can_know_are_refused(tmp_path: Path, speakers: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"speakers: {{{speakers}}}\nfunctions: {{allowed: {{brew: enrolled}}}}")
    with pytest.raises(ConfigError, match=r"functions\.allowed\.brew: nobody can be known by voice, as speakers"):
        build_options(load_config(path), WebRtcVad, find_voice)
