"""What every test gets: needs that skip with a reason, and a watch over blocked event loops."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
from collections.abc import Iterator

import pytest

BLOCKED_SECONDS = 1.0  # far above what a loop may be blocked for, far below what a busy machine excuses

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])  # brokers lie there


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PYTHONASYNCIODEBUG"] = "1"  # makes event loops report callbacks that block them


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            found = shutil.which(name, path=SEARCH_PATH) or ctypes.util.find_library(name)
            if found or importlib.util.find_spec(name):
                continue
            if os.environ.get("REQUIRE_ALL") == "1":
                pytest.fail(f"{name} is not installed, and REQUIRE_ALL=1", pytrace=False)
            pytest.skip(f"{name} is not installed")


@pytest.fixture(autouse=True)
def unblocked_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which one callback held the event loop for too long."""
    yield
    for record in caplog.get_records("call"):
        if record.name == "asyncio" and record.msg.startswith("Executing") and isinstance(record.args, tuple):
            blocked_seconds = record.args[1]
            assert isinstance(blocked_seconds, float)
            assert blocked_seconds < BLOCKED_SECONDS, record.getMessage()
