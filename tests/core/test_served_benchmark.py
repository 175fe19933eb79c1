"""The benchmark of recorded people through the whole server: what it makes of a pack of three clips."""

from __future__ import annotations

import importlib
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

CLIPS = Path(__file__).parents[2] / "clients" / "demo" / "clips"
ORDER = {"coffeeDrink": "espresso", "milkAmount": "lots of almond milk", "roast": "dark roast"}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("served")


def write_pack(path: Path) -> Path:
    """An order, the same under another label, and silence that should be a wake phrase."""
    order, rate = soundfile.read(CLIPS / "s2i_90a00f8a.flac", dtype="int16")
    label = json.dumps(ORDER).replace('"', '""')
    other = json.dumps(ORDER | {"roast": "light roast"}).replace('"', '""')
    rows = ["split,source,task,file,speaker,text,label"]
    rows += [f'dev,s2i,orders,0.flac,,,"{label}"', f'dev,s2i,orders,1.flac,,,"{other}"']
    rows += ["dev,wake,commands,2.flac,,alexa,alexa"]
    with tarfile.open(path, "w") as tar:
        for name, pcm in (("0.flac", order), ("1.flac", order), ("2.flac", np.zeros(rate, np.int16))):
            sound = io.BytesIO()
            soundfile.write(sound, pcm, rate, format="FLAC")
            member = tarfile.TarInfo(name)
            member.size = len(sound.getvalue())
            tar.addfile(member, io.BytesIO(sound.getvalue()))
        manifest = "\n".join(rows).encode()
        member = tarfile.TarInfo("manifest.csv")
        member.size = len(manifest)
        tar.addfile(member, io.BytesIO(manifest))
    return path


def test_clips_are_heard_answered_and_counted(
    served: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = write_pack(tmp_path / "pack.tar")
    monkeypatch.setattr(sys, "argv", ["served.py", str(pack), "--out", str(tmp_path)])
    served.main()
    found = json.loads((tmp_path / "served.json").read_text())
    assert found["figures"]["orders"] == {"served": {"right": 1, "total": 2}, "whole": {"right": 1, "total": 2}}
    assert found["figures"]["wake phrases"]["served"] == {"right": 0, "total": 1}
    right, wrong, silent = found["clips"]
    assert right[0] == "0.flac" and right[1] and not wrong[1] and not silent[1] and not silent[3]
    assert right[3] == wrong[3] and len(right[3]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[2].startswith("| orders | 2 | 2 | 0 | 0 | 0 |")
    assert rows[-1].startswith("| wake phrases | 1 | 0 | 1 | 0 | 0 |")
