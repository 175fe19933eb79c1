"""`make bench`: every script of the folder runs without arguments, or says what it was not given."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("[a-z]*.py"))


class Measures(Exception):
    """The script needs nothing and would begin now."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_lacks_its_data_says_so_and_ends_well(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_or_measure(self: argparse.ArgumentParser, *arguments: Any) -> argparse.Namespace:
        given = parse(self, *arguments)  # ends badly where an argument is required
        if all(action.option_strings for action in self._actions):
            raise Measures
        return given

    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_or_measure)
    with pytest.raises((Measures, SystemExit)) as ended:
        runpy.run_path(str(script), run_name="__main__")
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == 0
        assert re.fullmatch(r"nothing is measured without [A-Z]+, .*\n", capsys.readouterr().out)
