"""The decoder: one definition for every family, for training and for serving.

Parameter names are Hugging Face's, save that routed experts are stacked and multi-token-prediction layers stand
under `model.mtp_layers`.

Legend: T tokens of the pass, N tokens whose logits are wanted, D hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepground import kernels
from deepground.model.attention import prepare
from deepground.model.batch import Batch
from deepground.model.config import ModelConfig
from deepground.model.decoder_layer import DecoderLayer
from deepground.model.layers import Linear, RMSNorm
from deepground.model.mtp import MtpLayer
from deepground.model.rope import RotaryEmbedding

RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "experts.down_proj")
"""Projections that write to the residual stream; they start smaller, as their sum grows with depth."""


class DecoderModel(nn.Module):
    """Embedding, layers, final norm, and the layers of multi-token prediction."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mtp_layers = nn.ModuleList(
            MtpLayer(config, config.num_layers + depth) for depth in range(config.num_mtp_layers)
        )


class Decoder(nn.Module):
    """Maps tokens to hidden states, and hidden states to logits.

    Args:
        config: what to build. Under `torch.device("meta")` nothing is allocated, and weights can be assigned later.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rope = RotaryEmbedding(config.rope)
        self.model = DecoderModel(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states (T, D), after the final norm."""
        x_TD = self.model.embed_tokens(batch.token_ids_T)
        context = prepare(batch, self.rope, x_TD.dtype)
        for layer in self.model.layers:
            x_TD = layer(x_TD, context)
        hidden_TD: Tensor = self.model.norm(x_TD)
        return hidden_TD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) in float32; give only the tokens whose logits are wanted."""
        weight_VD = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        return kernels.linear(hidden_ND, weight_VD).float()

    def mtp_hidden(self, hidden_TD: Tensor, next_token_ids_T: Tensor, batch: Batch, depth: int = 0) -> Tensor:
        """States (T, D) from which `logits` predicts the token after the next.

        Args:
            hidden_TD: what `forward` gave for the batch, or, at a greater depth, what the depth before gave.
            next_token_ids_T: int64, the token that follows each token.
            batch: the batch of the main pass, or a `PagedBatch` of any tokens whose hidden states are at hand; the
                layer reads and writes layer `num_layers + depth` of its cache. The token ids are not looked at.
            depth: which of the `num_mtp_layers` layers.
        """
        layer = self.model.mtp_layers[depth]
        assert isinstance(layer, MtpLayer)
        context = prepare(batch, self.rope, hidden_TD.dtype)
        return layer.predict(hidden_TD, self.model.embed_tokens(next_token_ids_T), context)

    def mtp_logits(self, hidden_TD: Tensor, next_token_ids_T: Tensor, batch: Batch, depth: int = 0) -> Tensor:
        """Logits (T, V) in float32 of the token after the next; arguments as for `mtp_hidden`."""
        return self.logits(self.mtp_hidden(hidden_TD, next_token_ids_T, batch, depth))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fresh weights for training: normal matrices, unit norms, zero biases; the same for the same seed.

        The standard deviation is `initializer_range`, divided by sqrt(2 * layers) for projections that write to
        the residual stream (GPT-2's rule).
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        residual_std = self.config.initializer_range / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                std = residual_std if name.endswith(RESIDUAL_OUTPUTS) else self.config.initializer_range
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
        for name, buffer in self.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.zero_()
