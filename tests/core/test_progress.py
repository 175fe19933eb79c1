"""What a training run shows: a bar on a terminal, with the log above it, and the log alone elsewhere."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from wavllm_core.train.progress import bar


def test_a_terminal_shows_steps_and_losses_and_gets_its_log_back() -> None:
    terminal, log = Console(file=io.StringIO(), force_terminal=True, width=100), io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with bar(20, quiet=False, console=terminal) as tell:
            tell(5, {"reply": 0.12345, "ctc": 2.0})
        assert handler.stream is log
    finally:
        logging.getLogger().removeHandler(handler)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "5/20" in shown and "reply 0.123 ctc 2" in shown


def test_a_file_gets_no_bar_and_other_processes_show_none() -> None:
    for terminal, quiet in ((False, False), (True, True)):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        with bar(20, quiet, console) as tell:
            tell(5, {"reply": 0.1})
        assert console.file.getvalue() == ""  # type: ignore[attr-defined]
