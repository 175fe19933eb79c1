"""How one token is drawn."""

from __future__ import annotations

import pytest
import torch

from wavllm_core.engine.api import Sampling
from wavllm_core.engine.sampling import Chooser


@pytest.mark.parametrize(
    ("top_p", "drawn"), [(0.0, {0}), (0.5, {0}), (0.51, {0, 1}), (0.79, {0, 1}), (0.81, {0, 1, 2})]
)
def test_tokens_are_drawn_from_the_likeliest_that_have_the_share_together(top_p: float, drawn: set[int]) -> None:
    logits, chooser = torch.tensor([0.15, 0.5, 0.05, 0.3]).log(), Chooser(Sampling(temperature=1.0, top_p=top_p))
    by_rank = [1, 3, 0, 2]
    assert {by_rank.index(chooser.draw(logits)) for _ in range(200)} == drawn
