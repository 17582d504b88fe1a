"""One decoder layer: attention, then a dense or mixture-of-experts feed-forward block.

Legend: T tokens, D hidden size.
"""

from __future__ import annotations

from torch import Tensor, nn

from deepground.model.attention import GroupedQueryAttention, MultiHeadLatentAttention, PassContext
from deepground.model.config import MlaConfig, ModelConfig
from deepground.model.layers import Mlp, RMSNorm
from deepground.model.moe import Moe


class DecoderLayer(nn.Module):
    """Pre-norm residual layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        attention = config.attention
        self.self_attn: nn.Module
        if isinstance(attention, MlaConfig):
            self.self_attn = MultiHeadLatentAttention(config, attention, layer)
        else:
            self.self_attn = GroupedQueryAttention(config, attention, layer)
        self.mlp: nn.Module
        if config.moe is not None and layer in config.moe_layers:
            self.mlp = Moe(config.moe, config.hidden_size)
        else:
            self.mlp = Mlp(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_TD: Tensor, context: PassContext) -> Tensor:
        """(T, D) to (T, D)."""
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), context)
        out_TD: Tensor = x_TD + self.mlp(self.post_attention_layernorm(x_TD))
        return out_TD
