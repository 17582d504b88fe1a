"""Multi-token prediction (DeepSeek-V3 report, arXiv 2412.19437, section 2.2): one more token ahead.

Order trap: the report writes [hidden ; embedding], the released weights of `eh_proj` are for
[embedding ; hidden]. The released order is followed.

Legend: T tokens, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepground.model.attention import PassContext
from deepground.model.config import ModelConfig
from deepground.model.decoder_layer import DecoderLayer
from deepground.model.layers import Linear, RMSNorm


class SharedHead(nn.Module):
    """The norm before the output head; the head's matrix is the main model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MtpLayer(DecoderLayer):
    """A decoder layer that is fed a hidden state and the embedding of the token after it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def predict(self, hidden_TD: Tensor, next_embeddings_TD: Tensor, context: PassContext) -> Tensor:
        """The state (T, D), after the head's norm, from which the token after the next is predicted.

        Args:
            hidden_TD: what the main model (or the MTP layer before) gave for each token, after its last norm.
            next_embeddings_TD: embedding of the token that follows each token.
            context: as prepared for the main pass.
        """
        joined = torch.cat((self.enorm(next_embeddings_TD), self.hnorm(hidden_TD)), dim=-1)
        out_TD: Tensor = self.shared_head.norm(super().forward(self.eh_proj(joined), context))
        return out_TD
