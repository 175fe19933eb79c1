"""What each process of test_parallel does; apart from it, so that a new process can import it by name."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from wavllm_core.train.parallel import Group


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    shared, mine = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))
    shared.grad = torch.full((2, 3), float(rank))
    if rank == 0:
        mine.grad = torch.ones(4)
    Group(rank, 2).average_gradients([shared, mine])
    torch.save([shared.grad, mine.grad], f"{folder}/{rank}.pt")
    dist.destroy_process_group()
