"""First weights for training with Muon."""

from __future__ import annotations

import torch

from deepground.model import Decoder

EMBEDDING_STD = 1.0


@torch.no_grad()
def initialize(decoder: Decoder, seed: int) -> None:
    """Fresh weights, the same for the same seed; those of `Decoder.init_weights` but for the embedding.

    Muon makes every block's output grow to a size of a few units within some tens of steps, whatever it began
    with, whereas AdamW moves an embedding by a step size at a time. An embedding that begins at the usual 0.02 is
    then drowned by the first block: the model loses sight of its tokens and learns to copy them late or never. An
    embedding of size 1 keeps its place beside the blocks. Tied to the output head it keeps the usual size.

    Args:
        decoder: its parameters are overwritten.
        seed: any integer.
    """
    decoder.init_weights(seed)
    if not decoder.config.tie_word_embeddings:
        decoder.model.embed_tokens.weight *= EMBEDDING_STD / decoder.config.initializer_range
