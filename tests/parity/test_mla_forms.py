"""The two forms of latent attention against each other, with the weights of every latent family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parity.cases import CASES, VOCAB, Case
from parity.pairs import PagedRun, make_pair, row_logits

LATENT = tuple(case for case in CASES if "kv_lora_rank" in case.fields)


@pytest.mark.parametrize("case", LATENT, ids=lambda case: case.name)
def test_absorbed_equals_decompressed(case: Case, tmp_path: Path) -> None:
    """A row is decompressed; the same tokens one by one are absorbed."""
    ours = make_pair(case, tmp_path)
    tokens = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(2))
    run = PagedRun(ours.ours, [40])
    absorbed = torch.cat([run.feed({0: tokens[t : t + 1]})[0] for t in range(40)])
    torch.testing.assert_close(absorbed, row_logits(ours, tokens), rtol=0, atol=1e-4)
