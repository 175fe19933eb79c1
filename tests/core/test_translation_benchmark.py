"""The benchmark of translation: which sentences of a tar it takes."""

from __future__ import annotations

import importlib
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SENTENCES = """\
# id = 1
# text-en = how hot is it
# text = wie heiß ist es
# intent = weather/find
1\twie\tweather/find\tO
2\theiß\tweather/find\tB-weather/attribute

# id = 2
# text-en = Wake me at 7!
# text = Weck mich um 7 Uhr!
# intent = alarm/set_alarm
1\tWeck\talarm/set_alarm\tO
"""


@pytest.fixture
def translation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("translation")


def write_tar(path: Path, **texts: str) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"text/xsid/{name}.conll")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_the_german_sentences_of_the_valid_part_are_taken(translation: ModuleType, tmp_path: Path) -> None:
    other = "# text-en = no\n# text = nein\n"
    path = write_tar(tmp_path / "text.tar.xz", **{"de.test": other, "nl.valid": other, "de.valid": SENTENCES})
    assert translation.read_pairs(path) == [
        ("how hot is it", "wie heiß ist es"),
        ("Wake me at 7!", "Weck mich um 7 Uhr!"),
    ]


def test_a_tar_without_them_is_refused(translation: ModuleType, tmp_path: Path) -> None:
    for texts in ({"de.test": SENTENCES}, {"de.valid": "# id = 1\n"}):
        with pytest.raises(ValueError, match=r"holds no sentences of xsid/de\.valid\.conll"):
            translation.read_pairs(write_tar(tmp_path / "text.tar.xz", **texts))
