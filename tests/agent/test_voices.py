"""Who is known: the file of voices, enrolment and comparison, and what may be enrolled at all."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cryptography.fernet import Fernet

from agent.config import AgentConfig, SpeakersConfig, load_voices_key
from agent.errors import ConfigError, EnrolmentError, RegistryError
from agent.functions.permissions import Permissions
from agent.voices.people import People, Sample, is_voice
from agent.voices.setup import build_detector, build_people, build_scale
from agent.voices.store import VoiceStore
from agent.voices.voiced import Voicing, measure_voicing
from wavllm_core.audio import read_audio
from wavllm_core.voices import VoiceScale

CLIPS = Path(__file__).parents[2] / "clients" / "demo" / "clips"
SCALE = VoiceScale("these weights", same_similarity=0.6, slope=8.0)
SPOKEN = Voicing(seconds=1.0, share=0.8, still=0.1)
TIME = np.arange(3 * 16_000, dtype=np.float32) / 16_000


def near(direction: int, seed: int, noise: float = 0.05) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(0, noise, 32)
    vector[direction] += 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def samples(direction: int, count: int = 3) -> list[Sample]:
    return [Sample(f"{seed}.wav", near(direction, seed), SPOKEN) for seed in range(count)]


def open_people(folder: Path, key: str | None = None, scale: VoiceScale = SCALE) -> People:
    return People(VoiceStore(folder / "voices.db", key), scale)


@pytest.mark.parametrize("key", [None, Fernet.generate_key().decode()])
def test_a_voice_is_known_after_a_restart_whatever_it_is_called(tmp_path: Path, key: str | None) -> None:
    people = open_people(tmp_path, key)
    people.enrol("Anna", samples(0))
    people.enrol("Ben", samples(1))
    people.rename("ben", "Benjamin")
    again = open_people(tmp_path, key)
    match = again.identify(near(1, 77))
    assert match and match.accepted and match.person.name == "Benjamin" and match.confidence > 0.9
    assert again.verify("ANNA", near(0, 5)).accepted and not again.verify("anna", near(1, 5)).accepted
    stranger = again.identify(near(2, 5))
    assert stranger and not stranger.accepted and stranger.confidence < 0.1
    again.forget("Anna")
    people.refresh()  # what another process did
    assert [person.name for person in people.known] == ["Benjamin"]
    assert people.identify(near(0, 5)) != match


def test_the_file_is_for_its_owner_and_holds_no_name_when_it_is_encrypted(tmp_path: Path) -> None:
    open_people(tmp_path, Fernet.generate_key().decode()).enrol("Annabella", samples(0))
    path = tmp_path / "voices.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"Annabella" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_who_is_forgotten_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    people = open_people(tmp_path)
    people.enrol("Annabella", samples(0))
    people.forget("Annabella")
    assert b"Annabella" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "given", "fault"),
    [
        ("Anna", samples(0, 2), "3 to 20 different utterances"),
        ("Anna", samples(0, 21), "3 to 20 different utterances"),
        ("Anna", [*samples(0, 3), Sample("other.wav", near(1, 9), SPOKEN)], "other.wav: its voice is not like"),
        ("Anna", [*samples(0, 3), Sample("short.wav", near(0, 9), Voicing(0.1, 1, 0))], "short.wav: 0.1 s of voice"),
        ("Anna", [*samples(0, 3), Sample("sea.wav", near(0, 9), Voicing(2, 0.1, 0))], "sea.wav: only 10 %"),
        ("Anna", [*samples(0, 3), Sample("dog.wav", near(0, 9), Voicing(2, 1, 0, speech=0.1))], "dog.wav: only 10 %"),
        ("Anna", [*samples(0, 3), Sample("both.wav", near(0, 9), SPOKEN, parts=0.2)], "both.wav: two people seem to"),
        ("Anna", [*samples(0, 3), Sample("song.wav", near(0, 9), Voicing(2, 1, 0.9))], "song.wav: its pitch stands"),
        ("", samples(0), "is no name"),
        (" Anna", samples(0), "is no name"),
        ("A\nnna", samples(0), "is no name"),
        ("A" * 65, samples(0), "is no name"),
        ("Speaker 2", samples(0), "unknown voices are called so"),
        ("kim", samples(0), "there is a 'kim' already"),
        ("Anna", [Sample(str(i), np.ones(1, np.float32), SPOKEN) for i in range(3)], "tells no voices apart"),
    ],
)
def test_what_cannot_be_enrolled_is_refused_by_name(tmp_path: Path, name: str, given: list[Sample], fault: str) -> None:
    people = open_people(tmp_path)
    people.enrol("Kim", samples(3))
    with pytest.raises(EnrolmentError, match=fault):
        people.enrol(name, given)
    assert [person.name for person in open_people(tmp_path).known] == ["Kim"]


def test_names_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path) -> None:
    people = open_people(tmp_path)
    people.enrol("Anna", samples(0))
    people.enrol("Ben", samples(1))
    for refused in (
        lambda: people.verify("Carl", near(0, 1)),
        lambda: people.forget("Carl"),
        lambda: people.rename("Carl", "C"),
    ):
        with pytest.raises(EnrolmentError, match="no 'Carl'; known are: Anna, Ben"):
            refused()
    with pytest.raises(EnrolmentError, match="there is a 'ben' already"):
        people.rename("Anna", "ben")


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    people, composed, decomposed = open_people(tmp_path), "Jos\u00e9", "jose\u0301"
    people.enrol(composed, samples(0))
    assert people.verify(decomposed, near(0, 5)).accepted
    with pytest.raises(EnrolmentError, match="already"):
        people.enrol(decomposed, samples(0))
    assert Permissions({"open_door": (decomposed,)}).refusal("open_door", composed) is None
    assert people.forget(decomposed).name == composed


def test_what_voices_are_compared_with_is_not_made_anew_each_time(tmp_path: Path) -> None:
    people = open_people(tmp_path)
    person = people.enrol("Anna", samples(0))
    np.testing.assert_allclose(person.mean, person.vectors.mean(axis=0), atol=1e-6)
    assert person.mean is person.mean


def test_vectors_of_another_model_are_never_compared(tmp_path: Path) -> None:
    open_people(tmp_path).enrol("Anna", samples(0))
    other = open_people(tmp_path, scale=VoiceScale("other weights", 0.6, slope=8.0))
    assert other.identify(near(0, 1)) is None and [person.name for person in other.refused] == ["Anna"]
    with pytest.raises(EnrolmentError, match="'anna' was enrolled with another model"):
        other.verify("anna", near(0, 1))


def test_another_key_or_none_or_one_too_many_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    right, wrong = (Fernet.generate_key().decode() for _ in range(2))
    open_people(tmp_path, right).enrol("Anna", samples(0))
    open_people(tmp_path / "plain").enrol("Anna", samples(0))
    for folder, key, fault in (
        (tmp_path, wrong, "the key is another one"),
        (tmp_path, None, "is encrypted, but no key is configured"),
        (tmp_path / "plain", right, "is not encrypted, but a key is configured"),
    ):
        with pytest.raises(RegistryError, match=f"voices.db: .*{fault}"):
            open_people(folder, key)
    with pytest.raises(RegistryError, match="the key of the voices is none"):
        open_people(tmp_path, "abc")
    assert len(open_people(tmp_path, right).known) == 1


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + bytes(5_000)])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "voices.db"
    path.write_bytes(damage)
    with pytest.raises(RegistryError, match=r"voices\.db: is no file of voices, or damaged"):
        open_people(tmp_path)
    assert path.read_bytes() == damage


def test_a_file_of_something_else_and_a_broken_record_are_named(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "voices.db")) as file:
        file.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    with pytest.raises(RegistryError, match="not a file of voices"):
        open_people(tmp_path)
    other = tmp_path / "other"
    open_people(other).enrol("Anna", samples(0))
    with closing(sqlite3.connect(other / "voices.db")) as file:
        file.execute("UPDATE people SET record = '{}'")
        file.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
        file.commit()
    with pytest.raises(RegistryError, match=r"the record voice_.* is damaged"):
        open_people(other)


def test_a_server_refuses_an_unreadable_file_or_goes_on_without_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "voices.db"
    path.write_bytes(b"no database at all")
    with pytest.raises(RegistryError):
        build_people(SpeakersConfig(registry=path), SCALE)
    assert build_people(SpeakersConfig(registry=path, if_unreadable="go_on"), SCALE) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"] and "voices.db" in caplog.text
    with pytest.raises(RegistryError):  # whom should it require?
        build_people(SpeakersConfig(registry=path, if_unreadable="go_on", policy="require"), SCALE)
    assert build_people(SpeakersConfig(registry=path, policy="off"), SCALE) is None
    with pytest.raises(ConfigError, match=r"key_file: .*none cannot be read"):
        load_voices_key(SpeakersConfig(key_file=tmp_path / "none"), {})
    environment = {"WAVLLM_VOICES_KEY": "from the environment"}
    assert load_voices_key(SpeakersConfig(key_file=tmp_path / "none"), environment) == "from the environment"


def test_two_writers_at_a_time_lose_nobody(tmp_path: Path) -> None:
    one, other = open_people(tmp_path), open_people(tmp_path)
    one.enrol("Anna", samples(0))
    other.enrol("Ben", samples(1))
    one.refresh()
    assert [person.name for person in one.known] == ["Anna", "Ben"] == [p.name for p in other.known]


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What came of them: a result, or why there is none."""

    def safely(call: Callable[[], object]) -> object:
        try:
            return call()
        except EnrolmentError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(safely, calls))


def test_of_those_who_enrol_one_name_at_a_time_one_succeeds(tmp_path: Path) -> None:
    stores = [open_people(tmp_path) for _ in range(8)]
    told = at_once(*[partial(people.enrol, "Anna", samples(0)) for people in stores])
    assert (
        sorted(one for one in told if isinstance(one, str))
        == ["there is a 'Anna' already; forget or rename the one before"] * 7
    )
    assert len(open_people(tmp_path).known) == 1


def test_who_is_forgotten_while_somebody_renames_stays_forgotten(tmp_path: Path) -> None:
    one, other = open_people(tmp_path), open_people(tmp_path)
    for number in range(10):
        one.enrol("Anna", samples(0))
        _, forgotten = at_once(lambda: one.rename("Anna", "Hanna"), lambda: other.forget("Anna"))
        left = [person.name for person in VoiceStore(tmp_path / "voices.db").people()]
        assert left == (["Hanna"] if isinstance(forgotten, str) else []), f"round {number}"
        if left:
            one.forget("Hanna")


def test_the_shipped_model_brings_its_own_scale() -> None:
    config = AgentConfig().speakers
    scale = build_scale(config, None)
    assert scale.eer_percent is not None and 0 < scale.same_similarity < 1
    assert scale.confidence(scale.same_similarity) == pytest.approx(0.5)
    own = build_scale(SpeakersConfig(same_speaker_similarity=0.7), None)
    assert (own.same_similarity, own.limit_to_know) == (0.7, scale.limit_to_know)
    strict = build_scale(SpeakersConfig(known_similarity=0.6), None)
    assert (strict.same_similarity, strict.limit_to_know) == (scale.same_similarity, 0.6)


@pytest.mark.parametrize("clip", ["s2i_16245b86.flac", "s2i_540a38c2.flac", "s2i_8c59cf3c.flac", "s2i_90a00f8a.flac"])
def test_recorded_people_have_voices(clip: str) -> None:
    voicing = measure_voicing(read_audio(CLIPS / clip), build_detector())
    assert voicing.seconds > 0.6 and voicing.share > 0.4 and voicing.still < 0.4 and voicing.speech > 0.6


@pytest.mark.parametrize(
    ("name", "waveform"),
    [
        ("silence", np.zeros(16_000)),
        ("nothing", np.zeros(0)),
        ("white noise", np.random.default_rng(0).normal(0, 0.1, 32_000)),
        ("0.2 s of speech", read_audio(CLIPS / "s2i_540a38c2.flac")[8_000:11_200]),
        ("a tone", 0.3 * np.sin(2 * np.pi * 220 * TIME)),
        ("chords", sum(np.sin(2 * np.pi * hertz * TIME) for hertz in (262, 330, 392)) * np.exp(-3 * (TIME % 0.5)) / 4),
    ],
)
def test_what_is_no_speech_has_no_voice(name: str, waveform: np.ndarray) -> None:
    voicing = measure_voicing(waveform.astype(np.float32))
    assert voicing.seconds < 0.6 or voicing.share < 0.4 or voicing.still > 0.4


def test_what_glides_like_a_voice_and_says_nothing_is_no_speech() -> None:
    pitch_hz = 380 + 100 * np.sin(2 * np.pi * 1.3 * TIME)
    cry = sum(np.cos(number * 2 * np.pi * np.cumsum(pitch_hz) / 16_000) / number for number in range(1, 8))
    waveform = (0.1 * cry * np.abs(np.sin(np.pi * 1.3 * TIME))).astype(np.float32)
    assert is_voice(measure_voicing(waveform))
    assert measure_voicing(waveform, build_detector()).speech < 0.1
    assert not is_voice(measure_voicing(waveform, build_detector()))
    assert measure_voicing(np.zeros(100, np.float32), build_detector()).speech == 1.0, "nobody was asked"


def test_without_the_detector_enrolment_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.hearing.silero.WEIGHTS", "nowhere.safetensors")
    assert build_detector() is None
    assert "what is enrolled is not checked for speech" in caplog.text
