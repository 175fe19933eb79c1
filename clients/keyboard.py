"""What is typed at the terminal, line by line.

Read in a thread: where reading from a terminal does not block, neither does writing to it, and long texts break off.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress


async def typed_lines() -> AsyncIterator[str]:
    """Every line, without what surrounds it, until there are no more; the thread ends with the program."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()  # people type slowly

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line.strip())
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="keyboard", daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line
