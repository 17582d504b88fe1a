"""Random-weight checkpoints of real shapes, the same bytes on every machine, for comparing engines.

    python benchmarks/checkpoints.py FOLDER --shapes m1 m2 --formats bf16 fp8-ue8m0 mxfp4 w8a8

m1 is DeepSeek-R1-Distill-Qwen-1.5B's own configuration. m2 is a mixture of experts with latent attention as in
DeepSeek-V3, at 4.6 billion parameters, 0.87 billion active. Speed does not depend on what the weights say, so they
are drawn from a normal distribution, every tensor from a seed that its name gives. The other formats are made from the
bf16 folder by `deepground convert`; w8a8 (INT8 weights with a scale per row, compressed-tensors) is what vLLM runs
fastest on a CPU. benchmarks/gguf_export.py turns the bf16 folder into llama.cpp's files.

Legend: N rows, K columns of a weight.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deepground.model import write_random_model
from deepground.model.families import read_config
from deepground.model.tensor_files import SINGLE_FILE, Checkpoint
from deepground.model.weights import tensors

SHAPES: dict[str, dict[str, Any]] = {
    "m1": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "max_position_embeddings": 131072,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "m2": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "attention_bias": False,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 16384,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": True,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 8,
        "num_key_value_heads": 16,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_interleave": True,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "routed_scaling_factor": 1.0,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
}
COMMON = {"bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16", "initializer_range": 0.02}
CONVERSIONS = {
    "fp8-ue8m0": ("--to", "fp8-ue8m0"),
    "fp8-head": ("--to", "fp8-ue8m0", "--quantize-head", "fp8"),
    "mxfp4": ("--to", "mxfp4"),
    "mxfp4-head": ("--to", "mxfp4", "--quantize-head", "fp8"),
}
"""Options of `deepground convert` by format; with -head the head is in FP8 too, as llama.cpp's recipes quantise it."""
FORMATS = ("bf16", *CONVERSIONS, "w8a8")


def main() -> None:
    """Write what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoints go, one folder each: m1-bf16, ...")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for shape in arguments.shapes:
        source = arguments.folder / f"{shape}-bf16"
        # The others are made from it.
        for name in dict.fromkeys(("bf16", *arguments.formats)):
            target = arguments.folder / f"{shape}-{name}"
            if (target / "config.json").exists():
                print(f"{target} is there already")
                continue
            start = time.perf_counter()
            if name == "bf16":
                write_random(target, SHAPES[shape] | COMMON, arguments.seed)
            elif name == "w8a8":
                write_w8a8(target, source)
            else:
                command = [sys.executable, "-m", "deepground", "convert", str(source), str(target), *CONVERSIONS[name]]
                subprocess.run(command, check=True)
            print(f"{target} written in {time.perf_counter() - start:.0f} s")


def write_random(folder: Path, raw: dict[str, Any], seed: int) -> None:
    """A bf16 folder with random weights, in one file."""
    with tempfile.TemporaryDirectory() as tokenizer:
        write_tokenizer(Path(tokenizer), raw["vocab_size"])
        config = read_config(raw)
        write_random_model(config, folder, seed=seed, raw_config=raw, tokenizer_from=tokenizer, max_shard_bytes=2**50)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level tokenizer that has a token for every row of the embedding; benchmarks feed ids."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<|begin|>", "<|end|>"]
    pieces = [*special, *sorted(ByteLevel.alphabet())]
    pieces += [f"t{number}" for number in range(len(pieces), vocab_size)]
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id_,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for id_, text in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: id_ for id_, text in enumerate(pieces)},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    settings = {
        "bos_token": special[0],
        "eos_token": special[1],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_w8a8(folder: Path, source: Path) -> None:
    """INT8 weights with a bf16 scale per row, activations quantised on the way: compressed-tensors' int-quantized."""
    raw = json.loads((source / "config.json").read_text())
    with Checkpoint(source) as checkpoint:
        stored: dict[str, Tensor] = {}
        for spec in tensors(read_config(raw)):
            values = checkpoint.read(spec.name)
            if spec.role in ("matrix", "experts"):
                scale_N1 = (values.float().abs().amax(dim=1, keepdim=True) / 127).to(torch.bfloat16)
                codes_NK = (values.float() / scale_N1.float()).round().clamp(-127, 127)
                stored |= {spec.name: codes_NK.to(torch.int8), spec.name + "_scale": scale_N1}
            else:
                stored[spec.name] = values.clone()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(stored, folder / SINGLE_FILE, metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    }
    raw["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in range(raw["num_hidden_layers"]))],
    }
    # Last, so that an interrupted folder is no model and is written again.
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")


if __name__ == "__main__":
    main()
