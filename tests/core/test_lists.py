"""Lists end to end: a manifest, its answers, their figures; with a scripted model and with the shipped one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agent.__main__ import app
from wavllm_core.audio import SAMPLE_RATE, Waveform
from wavllm_core.errors import CoreError, InputError
from wavllm_core.evaluate.answerer import load_answerer
from wavllm_core.evaluate.answers import Answer, answer_rows, holds_answers, open_answers, read_answers
from wavllm_core.evaluate.command import evaluate_list
from wavllm_core.manifest import read_manifest
from wavllm_core.tasks import TASKS

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "clients" / "demo" / "clips"
HEADER = "id\taudio\tn_frames\tprompt\ttgt_text\twith_speech"

# Prompt, right letter, what the scripted model says. Separators, quotes and styles are those the published list has.
GAOKAO = [
    ("What does the man do? A. A cook; B. A nurse; C. A clerk", "A", "A"),
    ("When will they meet? A. At 5 A.M.; B. At 6 P.M.; C. At 7", "B", "The answer is: B"),
    ("Where are they? A. At home; B. At work; C. At school", "C", "C. At school"),
    ("Who speaks? A. A man, B. A child, C. A woman", "A", "A man is speaking"),  # an article: unreadable
    ("What’s “it”? A. A bus. B. A car. C. A train.", "C", "(c)"),
    ("How many? A. One B. Two C. Three", "B", "C"),  # wrong
    ("What did he say? A. “Go”; B. “Stop”; C. “It’s late”", "C", "It's late."),
    ("Why? A. He is ill; B. He is late; C. He is tired", "A", "The correct answer is option A."),
    ("Which way? A. Left; B. Right; C. Back", "B", "A or B"),  # two at once: unreadable
    ("What colour? A. Red; B. Blue; C. Green", "C", "D"),  # not an option: unreadable
    ("What is lost? A. A key; B. A book; C. A bag", "A", "A"),  # its sound file is missing: wrong
    ("What next? A. Eat; B. Sleep; C. Walk", "C", "I would choose C"),
]
RIGHT, READABLE, ALWAYS_C = 7 / 12, 8 / 12, 5 / 12


class Scripted:
    """Says what stands in the script for a prompt; remembers what it heard."""

    def __init__(self, script: dict[str, str]) -> None:
        self.script = script
        self.heard: list[Waveform | None] = []

    def answer(self, waveform: Waveform | None, instruction: str) -> str:
        self.heard.append(waveform)
        if instruction not in self.script:
            raise InputError("an instruction of 9 tokens; at most 8 are possible")
        return self.script[instruction]


def write_sound(path: Path, seconds: float = 0.1, sample_rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    samples = np.random.default_rng(len(path.name)).uniform(-0.1, 0.1, (round(seconds * sample_rate), channels))
    soundfile.write(path, samples, sample_rate)
    return path


def write_list(folder: Path, *rows: str, name: str = "list.tsv", header: str = HEADER) -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def tell_nothing(_: object) -> None:
    pass


def score(folder: Path, *answers: Answer, task: str = "") -> dict[str, dict[str, float]]:
    """The figures of answers, as the report for machines has them."""
    with open_answers(folder / "answers.jsonl") as write:
        for answer in answers:
            write(answer)
    evaluate_list(folder / "answers.jsonl", None, None, task, None, folder / "out", tell_nothing)
    figures: dict[str, dict[str, float]] = json.loads((folder / "out" / "scores.json").read_text())
    return figures


def test_the_gaokao_list_from_sound_files_to_figures(tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    rows = []
    for number, (prompt, target, _) in enumerate(GAOKAO, start=1):
        write_sound(tmp_path / "sound" / f"{number}.wav")
        rows.append(f"short_conv_{number}\tsound/{number}.wav\t111111\t{prompt}\t{target}\tTrue")
    (tmp_path / "sound" / "11.wav").unlink()
    manifest = write_list(tmp_path, *rows, name="gaokao.tsv")
    model = Scripted({prompt: said for prompt, _, said in GAOKAO})

    answers = answer_rows(read_manifest(manifest, tmp_path), model, tmp_path / "answers.tsv", tell_nothing)
    assert [answer.problem for answer in answers if answer.problem] == [
        f"line 12: {tmp_path}/sound/11.wav: no such file"
    ]
    assert read_answers(tmp_path / "answers.tsv") == answers
    page = evaluate_list(tmp_path / "answers.tsv", None, None, "", None, tmp_path / "out", tell_nothing)
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    accuracy = report["sqa, accuracy"]
    assert accuracy["value"] == pytest.approx(100 * RIGHT) and accuracy["items"] == 12
    assert 25 <= accuracy["low"] < accuracy["value"] < accuracy["high"] <= 92
    assert report["sqa, answers that can be read"]["value"] == pytest.approx(100 * READABLE)
    assert report["baselines"]["sqa, accuracy"] == f"{100 * ALWAYS_C:.1f} (always C)"
    assert "| sqa, accuracy | 58.3 |" in page
    assert "Without an answer, and counted as wrong: 1\n\n- short_conv_11: line 12:" in page


def test_what_a_model_is_given_and_what_becomes_of_failures(tmp_path: Path) -> None:
    write_sound(tmp_path / "narrow.wav", sample_rate=8_000)
    write_sound(tmp_path / "stereo.wav", channels=2)
    write_sound(tmp_path / "empty.wav", seconds=0)
    manifest = write_list(
        tmp_path,
        "narrow\tnarrow.wav\t1\tsay\tt\tTrue\t\t",
        "part\tstereo.wav\t1\tsay\tt\tTrue\t100\t300",
        "typed\tnone.wav\t1\tsay\tt\tFalse\t\t",
        "empty\tempty.wav\t1\tsay\tt\tTrue\t\t",
        "range\tstereo.wav\t1\tsay\tt\tTrue\t0\t1601",
        "zip\tstereo.zip:0:9\t1\tsay\tt\tTrue\t\t",
        "long\tstereo.wav\t1\tsay more than it can take\tt\tTrue\t\t",
        "spoilt\tstereo.wav\t1\tsay\tt\ttrue\t\t",
        header=f"{HEADER}\tstart_frame\tend_frame",
    )
    model, told = Scripted({"say": "two\nlines\tand a tab"}), []
    answers = answer_rows(read_manifest(manifest, tmp_path), model, tmp_path / "out" / "answers.jsonl", told.append)
    assert told == answers == read_answers(tmp_path / "out" / "answers.jsonl")
    assert [None if heard is None else heard.shape for heard in model.heard[:3]] == [(1_600,), (200,), None]
    told_apart = [
        answer.problem.removeprefix(f"line {line}: ").replace(f"{tmp_path}/", "")
        for line, answer in enumerate(answers, start=2)
    ]
    assert dict(zip([answer.id for answer in answers], told_apart, strict=True)) == {
        "narrow": "",
        "part": "",
        "typed": "",
        "empty": "empty.wav: holds no audio (0 samples)",
        "range": "stereo.wav: frames 0 to 1601 of a file that has 1600",
        "zip": "stereo.zip: no such file",
        "long": "an instruction of 9 tokens; at most 8 are possible",
        "spoilt": "with_speech: 'true' is neither True nor False",
    }
    assert answers[0].answer == "two\nlines\tand a tab" and answers[-1].target == "t"


def test_words_and_translations(tmp_path: Path) -> None:
    figures = score(
        tmp_path,
        Answer("1", "asr", "", "so Tim went home", "So, Tim want home."),
        Answer("2", "asr", "", "yes", "", problem="too long"),
        Answer("3", "st", "", "Das ist ein schönes altes Haus.", "Das ist ein schönes altes Haus."),
        Answer("4", "st", "", "Das ist es.", "Das ist er."),
    )
    assert figures["asr, WER"]["value"] == pytest.approx(100 * 2 / 5)
    assert (figures["asr, WER"]["low"], figures["asr, WER"]["high"]) == (25, 100)  # one item twice, or the other
    # By hand: n-grams that match 10, 7, 5, 4 of 11, 9, 7, 5, equal lengths.
    assert figures["st, BLEU"]["value"] == pytest.approx(100 * (10 / 11 * 7 / 9 * 5 / 7 * 4 / 5) ** 0.25)
    assert "|tok:13a|smooth:exp|version:" in " ".join(map(str, figures["notes"]))


def test_one_right_value(tmp_path: Path) -> None:
    prompt = TASKS["sv"].prompt
    figures = score(
        tmp_path,
        Answer("1", "sv", prompt, "Yes", "Yes, there is only one speaker in the audio clip", score=0.9),
        Answer("2", "sv", prompt, "Yes", "There are two speakers.", score=0.2),
        Answer("3", "sv", prompt, "No", "No.", score=0.4),
        Answer("4", "sv", prompt, "No", "who knows", score=0.1),
        Answer("5", "sv", prompt, "Yes", "yes"),
        Answer("6", "er", "", "happy", "The emotion of the speaker is happy."),
        Answer("7", "er", "", "sad", "neutral"),
        Answer("8", "sqqa", "", "Paris", "It is Paris, in France."),
        Answer("9", "sqqa", "", "Rome", "Romeo"),
    )
    assert figures["sv, accuracy"]["value"] == pytest.approx(60)
    assert figures["sv, answers that can be read"]["value"] == pytest.approx(80)
    assert (figures["sv, EER"]["value"], figures["sv, EER"]["items"]) == (50, 4)
    assert figures["er, accuracy"]["value"] == figures["sqqa, answers that contain the target"]["value"] == 50
    assert figures["baselines"]["sv, accuracy"] == "60.0 (always yes)"  # type: ignore[comparison-overlap]


def test_many_instructions_and_chains(tmp_path: Path) -> None:
    target = r"The text is: it is late\nThe answer is: C\nThe story goes on: they left"
    chain = "The transcription is: {}; The summary is: {}; The translation is: **{}**"
    figures = score(
        tmp_path,
        Answer("1", "ii", "", target, r"Here it is: it was late\nTo 'which: one', the answer is: C\nThen: they left"),
        Answer("2", "ii", "", target, r"It is late\nThe answer is:"),  # not announced, empty, missing
        Answer("3", "ii", "", r"hello\nThe answer is: A", r"hi\nThe answer is: B"),
        Answer("4", "cot", "", "Ein altes Haus am See", chain.format("an old house", "house", "Ein altes Haus am See")),
        Answer("5", "cot", "", chain.format("a dog barks", "dog", "Ein Hund bellt laut"), "Ein Hund bellt laut"),
    )
    assert figures["ii, instruction-following rate"]["value"] == pytest.approx(100 * (3 + 0 + 2) / 8)
    assert figures["ii, multiple-choice accuracy"]["value"] == pytest.approx(100 / 3)
    assert figures["baselines"]["ii, instruction-following rate"] == "37.5 (the first segment alone)"  # type: ignore[comparison-overlap]
    assert figures["cot, BLEU of the last step"]["value"] == pytest.approx(100)
    assert figures["cot, all three steps given"]["value"] == 50
    assert figures["cot, WER of the first step"]["value"] == 100  # the one target with a transcript got none


def test_targets_and_tasks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good = Answer("good", "", "", "sad", "sad")
    bad = [Answer("odd", "er", "", "frustrated", "sad"), Answer("sung", "sing", "", "la", "la")]
    assert score(tmp_path, good, *bad, task="er")["er, accuracy"]["items"] == 1
    page = (tmp_path / "out" / "scores.md").read_text()
    assert "Not scored: 2" in page and "odd: target: 'frustrated'" in page and "sung: task: 'sing'" in page
    with pytest.raises(InputError, match="none of 2 answers can be scored; the first: odd"):
        score(tmp_path, *bad)
    with pytest.raises(InputError, match="good: no task"):
        score(tmp_path, good)
    with pytest.raises(InputError, match="'sing' is none of"):
        score(tmp_path, good, task="sing")


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts=st.lists(ANY_TEXT, min_size=5, max_size=5), likely=st.none() | st.floats(-1e6, 1e6))
def test_answers_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], likely: float | None) -> None:
    folder, answer = tmp_path_factory.mktemp("answers"), Answer(*texts, "", likely)
    for name in ("answers.jsonl", "answers.tsv"):
        with open_answers(folder / name) as write:
            write(answer)
        assert holds_answers(folder / name)
    assert read_answers(folder / "answers.jsonl") == [answer]
    (flat,) = read_answers(folder / "answers.tsv")
    assert flat.answer == r"\n".join(answer.answer.splitlines()).replace("\t", " ") and flat.score == likely


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", b"", "a.jsonl: holds no answers"),
        ("a.jsonl", b"{}\n", "a.jsonl: line 1: id: missing"),
        ("a.jsonl", b'\n{"id": "1", "target": "t"}\n', "line 2: answer: missing"),
        ("a.jsonl", b'{"id": 1, "target": "t", "answer": "a"}\n', "line 1: id: not text"),
        ("a.jsonl", b'{"id": "1", "tar\n', "line 1: "),
        ("a.jsonl", b"[]\n", "line 1: not an object"),
        ("a.jsonl", b'{"id": "1", "target": "t", "answer": "a", "score": "high"}\n', "score: 'high' is no number"),
        ("a.jsonl", b'{"id": "1", "target": "t", "answer": "a", "score": NaN}\n', "score: nan is no number"),
        ("a.jsonl", b"\xff\n", "not UTF-8: byte 0xff at 0"),
        ("a.tsv", b"id\ttarget\tanswer\n1\t2\n", "line 2: 2 fields, the header has 3"),
        ("a.tsv", b"id\tanswer\n1\t2\n", "line 2: target: missing"),
        ("a.tsv", b"id\ttarget\tanswer\n", "holds no answers"),
    ],
)
def test_a_damaged_file_of_answers_is_named(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        evaluate_list(tmp_path / name, None, None, "asr", None, tmp_path, tell_nothing)
    assert fault in str(caught.value) and name in str(caught.value)


def test_the_shipped_model_answers_a_list_and_is_scored(tmp_path: Path) -> None:
    write_sound(tmp_path / "long.wav", seconds=30.1)
    manifest = write_list(
        tmp_path,
        f"three\t{CLIPS}/fsdd_3_jackson_2.flac\t1\t\tthree\tTrue",
        f"computer\t{CLIPS}/wake_computer.flac\t1\t\tcomputer\tTrue",
        "typed\t\t1\twhat did i order\tYou have not ordered yet.\tFalse",
        "long\tlong.wav\t1\t\tnothing\tTrue",
        name="asr.tsv",
    )
    out = tmp_path / "answers.jsonl"
    done = CliRunner().invoke(
        app, ["infer", str(manifest), "--audio-root", str(tmp_path), "--out", str(out), "--threads", "1"]
    )
    assert done.exit_code == 1 and "3 of 4 rows answered, 1 failed" in done.stdout
    three, computer, typed, long = read_answers(out)
    assert (three.answer, computer.answer, three.prompt) == ("three", "computer", TASKS["asr"].prompt)
    assert typed.answer and not typed.problem
    assert long.problem == "line 5: 30.1 s of audio; more than 0 and at most 30 s are possible"
    assert CliRunner().invoke(app, ["infer", str(manifest), "--out", str(manifest)]).exit_code == 2
    assert len(read_manifest(manifest)) == 4  # it was not written over
    done = CliRunner().invoke(app, ["eval", str(out), "--out", str(tmp_path / "eval"), "--threads", "1"])
    assert done.exit_code == 0 and "asr, WER" in done.stdout and "counted as wrong: 1" in done.stdout


def test_eval_puts_a_manifest_to_the_model_itself(tmp_path: Path) -> None:
    row = "three\tfsdd_3_jackson_2.flac\t1\t\tthree\tTrue"
    manifest = write_list(tmp_path, row, row, name="asr.tsv")
    page = evaluate_list(manifest, None, CLIPS, "", 1, tmp_path / "out", tell_nothing)
    assert "### nano on asr.tsv" in page and "| asr, WER | 0.0 | 0.0-0.0 | 1 |" in page
    assert read_answers(tmp_path / "out" / "answers.jsonl")[0].answer == "three"


def test_limits_of_the_shipped_model() -> None:
    model = load_answerer(None)
    with pytest.raises(InputError, match=r"0\.0 s of audio"):
        model.answer(np.zeros(0, np.float32), "")
    with pytest.raises(CoreError, match="tokens; at most"):
        model.answer(None, "word " * 2_000)
    with pytest.raises(CoreError, match="no such file"):
        load_answerer(Path("no such folder"))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["infer", "none.tsv"], "wavllm: none.tsv: cannot be read"),
        (["infer", "constraints.txt", "--task", "sing"], "wavllm: task: 'sing' is none of asr"),
        (["infer", "constraints.txt"], "wavllm: constraints.txt: column id is missing"),
        (["eval", "none.tar"], "wavllm: none.tar: no such file"),
    ],
)
def test_faults_end_in_one_line(arguments: list[str], fault: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(fault) and done.stderr.count("\n") == 1
