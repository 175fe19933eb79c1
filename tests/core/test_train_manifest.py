"""Published lists as training data: which rows are taken, how the others are named, what becomes of a row."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.core.tiny import write_tokenizer
from wavllm_core.checkpoint import load_tokenizer
from wavllm_core.prompt import TRANSCRIBE, PromptTemplate
from wavllm_core.train import synthesis
from wavllm_core.train.augment import Augmentation
from wavllm_core.train.batches import ExampleMaker
from wavllm_core.train.corpus import Corpus
from wavllm_core.train.manifest import manifest_clips

HEADER = "id\taudio\tn_frames\tprompt\ttgt_text\twith_speech\tstart_frame\tend_frame"
QUESTION = 'What is "it"?'  # quotes are characters like others


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def sound(path: Path, seconds: float, rate: int = 16_000, channels: int = 1) -> Path:
    soundfile.write(path, np.random.default_rng(0).standard_normal((int(seconds * rate), channels)) * 0.1, rate)
    return path


def test_rows_are_read_at_any_rate_from_files_and_archives(tmp_path: Path) -> None:
    sound(tmp_path / "stereo.wav", 1.0, rate=8_000, channels=2)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.write(sound(tmp_path / "one.flac", 0.5), "one.flac")
        offset = archive.infolist()[0].header_offset + 30 + len("one.flac")
    stored = f"all.zip:{offset}:{(tmp_path / 'one.flac').stat().st_size}"
    path = write(
        tmp_path / "asr.tsv",
        f"a\tstereo.wav\t1\t{TRANSCRIBE}\tso tim went\tTrue\t\t",
        f"b\t{stored}\t1\t{QUESTION}\tA.\tTrue\t1600\t4800",
        f"c\t\t1\t{QUESTION}\tB.\tFalse\t\t",
    )
    rows = list(manifest_clips(path))
    assert [len(pcm) for _, pcm in rows] == [16_000, 3_200, 0]
    assert [clip.text for clip, _ in rows] == ["so tim went", "", ""]
    assert rows[1][0].prompt == QUESTION and rows[1][0].answer == "A."
    assert {(clip.source, clip.split) for clip, _ in rows} == {("asr", "train")}


def test_a_test_list_is_never_trained_on(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 0.5)
    path = write(tmp_path / "test_asr.tsv", f"a\ta.wav\t1\t{TRANSCRIBE}\tyes\tTrue\t\t")
    assert [clip.split for clip, _ in manifest_clips(path)] == ["dev"]


def test_bad_rows_are_named_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound(tmp_path / "long.wav", 31.0, rate=4_000)
    sound(tmp_path / "good.wav", 0.5)
    path = write(
        tmp_path / "sqa.tsv",
        f"absent\tabsent.wav\t1\t{QUESTION}\tA.\tTrue\t\t",
        f"long\tlong.wav\t1\t{QUESTION}\tA.\tTrue\t\t",
        f"mute\t\t1\t{QUESTION}\tA.\tTrue\t\t",
        f"unanswered\tgood.wav\t1\t{QUESTION}\t\tTrue\t\t",
        f"odd\tgood.wav\t1\t{QUESTION}\tA.\tTrue\tsoon\t",
        f"good\tgood.wav\t1\t{QUESTION}\tA.\tTrue\t\t",
    )
    assert [clip.file for clip, _ in manifest_clips(path)] == ["good"]
    told = [record.getMessage() for record in caplog.records]
    assert "line 2: absent: " in told[0] and "no such file" in told[0]
    assert "line 3: long: audio: 31.0 s; at most 30 s" in told[1]
    assert "line 4: mute: audio: empty" in told[2] and "line 5: unanswered: tgt_text: empty" in told[3]
    assert "line 6: odd: start_frame" in told[4] and "5 of 6 rows skipped" in told[5]


def test_a_row_becomes_its_prompt_and_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "phonemes", lambda texts: [[] for _ in texts])
    sound(tmp_path / "a.wav", 0.5)
    rows = (f"a\ta.wav\t1\t{QUESTION}\tB.\tTrue\t\t", "t\t\t1\tname it\tFour.\tFalse\t\t")
    Corpus.write(tmp_path, manifest_clips(write(tmp_path / "sqa.tsv", *rows)))
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "tokenizer.json"))
    maker = ExampleMaker(Corpus(tmp_path), PromptTemplate(tokenizer), Augmentation(), seed=0)
    batch = maker.batch([0], with_prompts=True)
    assert tokenizer.decode(batch.after[0], skip_special_tokens=False).endswith(f"{QUESTION}[/INST]B.</s>")
    wanted = [token for token, said in zip(batch.before[0] + batch.after[0], batch.wanted[0], strict=True) if said]
    assert tokenizer.decode(wanted) == "B."
    typed = [row for _ in range(8) for row in maker.text_batch(5).before]  # some batches hold orders alone
    assert any("name it[/INST]" in tokenizer.decode(row, skip_special_tokens=False) for row in typed)
