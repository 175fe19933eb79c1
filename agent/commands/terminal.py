"""What the commands share: a console, and a word about what is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


def console() -> Console:
    """Prints what it is given as it is."""
    return Console(highlight=False, markup=False, emoji=False)


@contextmanager
def told_what_to_install(extra: str) -> Iterator[None]:
    """End the program in one line where an import fails inside that `extra` would bring."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"wavllm: {error.name} is not installed: pip install 'wavllm-agent[{extra}]'")
