"""Gradients of two processes become their mean, also where one of them has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from tests.core.two_processes import one_of_two
from wavllm_core.train.parallel import Group


@pytest.mark.timeout(90)
def test_two_processes_end_with_the_same_mean(tmp_path: Path) -> None:
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        shared, mine = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(shared, torch.full((2, 3), 0.5))
        assert torch.equal(mine, torch.full((4,), 0.5))


def test_a_run_by_itself_is_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Group.join() == Group(rank=0, size=1)
    parameter = nn.Parameter(torch.zeros(2))
    Group().average_gradients([parameter])
    assert parameter.grad is None
