"""The published list format: what is read, and how every bad row and file is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavllm_core.errors import InputError
from wavllm_core.manifest import Row, read_manifest
from wavllm_core.tasks import TASKS

HEADER = "id\taudio\tn_frames\tprompt\ttgt_text\twith_speech"
FIELD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)


def write(tmp_path: Path, *lines: str, name: str = "list.tsv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_of_the_published_form(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, 'one\ta.wav\t111111\tsay "it"\t"\'tis\tTrue', "two\t\t\tsay what\tit\tFalse")
    assert read_manifest(path, Path("/root")) == [
        Row(2, "one", 'say "it"', "\"'tis", audio="/root/a.wav"),
        Row(3, "two", "say what", "it"),
    ]


def test_columns_in_any_order_with_the_optional_ones(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "task\twith_speech\ttgt_text\tprompt\taudio\tend_frame\tid\tstart_frame",
        "sv\tTrue\tYes\t\t/sound/a.zip:3:4\t20\tone\t10",
        "\tTrue\tYes\t\tb.wav\t\ttwo\t",
    )
    one, two = read_manifest(path, Path("root"))
    assert one == Row(2, "one", TASKS["sv"].prompt, "Yes", "sv", "/sound/a.zip:3:4", 10, 20)
    assert two == Row(3, "two", "", "Yes", audio="root/b.wav")


@pytest.mark.parametrize(
    ("name", "task", "found"), [("gaokao.tsv", "", "sqa"), ("gaokao.tsv", "asr", "asr"), ("x.tsv", "", "")]
)
def test_the_task_of_rows_that_do_not_tell_it(tmp_path: Path, name: str, task: str, found: str) -> None:
    path = write(tmp_path, HEADER, "one\ta.wav\t1\tpick\tA\tTrue", name=name)
    assert [row.task for row in read_manifest(path, task=task)] == [found]


@given(texts=st.tuples(FIELD, FIELD, FIELD))
def test_any_text_stands_in_a_field(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, str, str]) -> None:
    name, prompt, target = texts
    path = write(
        tmp_path_factory.mktemp("any"),
        "tgt_text\tid\taudio\tprompt\twith_speech",
        f"{target}\t{name}\ta\t{prompt}\tTrue",
    )
    (row,) = read_manifest(path)
    assert (row.id, row.prompt, row.target, row.problem) == (name, prompt, target, "")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("x\ta.wav\t1\tp\tt\tyes\t\t\t", "line 2: with_speech: 'yes' is neither True nor False"),
        ("x\ta.wav\t1\tp\tt\t\t\t\t", "line 2: with_speech: '' is neither"),
        ("x\t\t1\tp\tt\tTrue\t\t\t", "line 2: audio: empty"),
        ("x\t\t1\t\tt\tFalse\t\t\t", "line 2: prompt: empty"),
        ("\ta.wav\t1\tp\tt\tTrue\t\t\t", "line 2: id: empty"),
        ("x\ta.wav\t1\tp", "line 2: tgt_text: missing"),
        ("x\ta.wav\t1\tp\tt\tTrue\t\t\t\tmore", "line 2: more fields"),
        ("x\ta.wav\t1\tp\tt\tTrue\t-1\t\t", "line 2: start_frame: '-1'"),
        ("x\ta.wav\t1\tp\tt\tTrue\t\t1.5\t", "line 2: end_frame: '1.5'"),
        (f"x\ta.wav\t1\tp\tt\tTrue\t\t{'9' * 5000}\t", "at most 15 digits"),
        ("x\ta.wav\t1\tp\tt\tTrue\t7\t7\t", "line 2: end_frame: 7 is not after start_frame 7"),
        ("x\ta.wav\t1\tp\tt\tTrue\t\t\tsing", "line 2: task: 'sing' is none of asr, st"),
        (f"x\ta.wav\t1\t{'p' * 140_000}\tt\tTrue\t\t\t", "line 2: field larger than field limit"),
    ],
)
def test_a_bad_row_is_named_and_the_others_go_on(tmp_path: Path, line: str, problem: str) -> None:
    path = write(tmp_path, f"{HEADER}\tstart_frame\tend_frame\ttask", line, "good\ta.wav\t1\tp\tt\tTrue\t\t\tasr")
    bad, good = read_manifest(path)
    assert problem in bad.problem
    assert good == Row(3, "good", "p", "t", "asr", "a.wav")


@pytest.mark.parametrize("column", ["id", "audio", "prompt", "tgt_text", "with_speech"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, HEADER.replace(column, "other"), "x\ta\t1\tp\tt\tTrue")
    with pytest.raises(InputError, match=rf"list\.tsv: column {column} is missing"):
        read_manifest(path)


def test_faults_of_the_whole_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="holds no rows"):
        read_manifest(write(tmp_path, HEADER))
    with pytest.raises(InputError, match="column id is missing"):
        read_manifest(write(tmp_path, ""))
    with pytest.raises(InputError, match="column audio is there twice"):
        read_manifest(write(tmp_path, f"{HEADER}\taudio", "x"))
    with pytest.raises(InputError, match="header: field larger"):
        read_manifest(write(tmp_path, "h" * 140_000))
    with pytest.raises(InputError, match="'sing' is none of"):
        read_manifest(write(tmp_path, HEADER), task="sing")
    latin = write(tmp_path, HEADER, "x\ta\t1\tp\tt\tTrue")
    latin.write_bytes(latin.read_bytes() + "é".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.tsv: not UTF-8: byte 0xe9 at"):
        read_manifest(latin)
