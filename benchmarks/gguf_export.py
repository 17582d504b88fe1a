"""A bf16 checkpoint folder as llama.cpp's files, quantised by llama.cpp's own quantiser with its own recipes.

    PEER_PYTHON benchmarks/gguf_export.py FOLDER/m1-bf16 --types q8_0 q4_0
    PEER_PYTHON benchmarks/gguf_export.py FOLDER/m2-bf16 --types q8_0 q4_0 mxfp4

Run it with an interpreter that has llama-cpp-python and gguf; it needs nothing of deepground. The files stand beside
the folder: m1-q8_0.gguf and so on. Names and shapes are those of llama.cpp's conversion scripts for the qwen2
and deepseek2 architectures. The vocabulary is left out: benchmarks feed token ids.

Legend: N rows, K columns of a weight; H heads; E experts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# By name, as type checks run where these are not installed.
gguf: Any = importlib.import_module("gguf")
llama_cpp: Any = importlib.import_module("llama_cpp")

Array = np.ndarray[Any, Any]
Entry = tuple[str, tuple[int, ...], Callable[[], Array]]
"""Name, shape, and the values: uint16 for bf16, or float32."""

FTYPES = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "mxfp4": llama_cpp.LLAMA_FTYPE_MOSTLY_MXFP4_MOE,
}


def main() -> None:
    """Write what is not there yet; the bf16 file in between is deleted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", nargs="+", choices=FTYPES, default=["q8_0", "q4_0"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    name = arguments.folder.name.removesuffix("-bf16")
    targets = {kind: arguments.folder.with_name(f"{name}-{kind}.gguf") for kind in arguments.types}
    wanted = {kind: path for kind, path in targets.items() if not path.exists()}
    if not wanted:
        return
    whole = arguments.folder.with_name(f"{name}-bf16.gguf.partial")
    start = time.perf_counter()
    write_gguf(arguments.folder, whole)
    print(f"{whole} written in {time.perf_counter() - start:.0f} s")
    for kind, path in wanted.items():
        start = time.perf_counter()
        params = llama_cpp.llama_model_quantize_default_params()
        params.nthread, params.ftype = arguments.threads, FTYPES[kind]
        partial = path.with_suffix(".partial")
        if llama_cpp.llama_model_quantize(str(whole).encode(), str(partial).encode(), params):
            raise SystemExit(f"llama.cpp could not quantise to {kind}")
        partial.rename(path)
        print(f"{path} written in {time.perf_counter() - start:.0f} s")
    whole.unlink()


class Folder:
    """A model folder with one safetensors file, mapped."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        path = folder / "model.safetensors"
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.header: dict[str, Any] = json.loads(file.read(length))
        self.header.pop("__metadata__", None)
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)

    def read(self, name: str) -> Array:
        """One tensor; bf16 as uint16."""
        info = self.header[name]
        begin, end = info["data_offsets"]
        dtype = {"BF16": np.uint16, "F32": np.float32}[info["dtype"]]
        return self._bytes[begin:end].view(dtype).reshape(info["shape"])


def write_gguf(folder: Path, path: Path) -> None:
    """The whole model in bf16, tensor by tensor; vectors in float32, as llama.cpp keeps them."""
    source = Folder(folder)
    is_mla = source.config["model_type"] == "deepseek_v3"
    arch = gguf.MODEL_ARCH.DEEPSEEK2 if is_mla else gguf.MODEL_ARCH.QWEN2
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    add_settings(writer, source.config)
    if is_mla:
        add_mla_settings(writer, source.config)
    names = gguf.get_tensor_name_map(arch, source.config["num_hidden_layers"])
    entries = [(to_gguf(names, name), shape, make) for name, shape, make in regroup(source)]
    for name, shape, _ in entries:
        is_bf16 = keeps_bf16(name, shape)
        size = int(np.prod(shape)) * (2 if is_bf16 else 4)
        dtype = np.dtype(np.uint16 if is_bf16 else np.float32)
        raw = gguf.GGMLQuantizationType.BF16 if is_bf16 else gguf.GGMLQuantizationType.F32
        writer.add_tensor_info(name, shape, dtype, size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, make in entries:
        values = np.ascontiguousarray(make())
        if not keeps_bf16(name, shape) and values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        writer.write_tensor_data(values)
    writer.close()


def keeps_bf16(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices, save the router."""
    return len(shape) > 1 and "ffn_gate_inp" not in name


def add_settings(writer: Any, config: dict[str, Any]) -> None:
    """What every model says of itself."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")
    if config["model_type"] != "deepseek_v3":
        writer.add_head_count_kv(config["num_key_value_heads"])


def add_mla_settings(writer: Any, config: dict[str, Any]) -> None:
    """Latent attention, which llama.cpp runs as attention with one wide key head, and the experts."""
    rank, rotary = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_head_count_kv(1)
    writer.add_kv_lora_rank(rank)
    # llama.cpp wants the key also where there is no such rank, unless the number of layers is one that it knows.
    writer.add_q_lora_rank(config["q_lora_rank"] or 0)
    writer.add_key_length(rank + rotary)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotary)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rotary)
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def regroup(source: Folder) -> Iterator[Entry]:
    """Experts stacked; kv_b_proj split into the keys' half, transposed, and the values' half."""
    experts = source.config.get("n_routed_experts", 0)
    for name, info in source.header.items():
        shape = tuple(info["shape"])
        if ".mlp.experts." in name:
            base, rest = name.split(".mlp.experts.")
            first, part = rest.split(".", 1)
            if first == "0":
                parts = [f"{base}.mlp.experts.{expert}.{part}" for expert in range(experts)]
                yield (
                    f"{base}.mlp.experts.{part}",
                    (experts, *shape),
                    make_stack(source, parts),
                )
        elif name.endswith("kv_b_proj.weight"):
            yield from split_kv_b(source, name)
        else:
            yield name.replace("e_score_correction_bias", "e_score_correction.bias"), shape, make_reader(source, name)


def split_kv_b(source: Folder, name: str) -> Iterator[Entry]:
    """(H * (K + V), R) as keys (H, R, K) and values (H, V, R)."""
    config = source.config
    heads, keys, values = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
    rank = config["kv_lora_rank"]

    def both() -> Array:
        return source.read(name).reshape(heads, keys + values, rank)

    yield name.replace("kv_b", "k_b"), (heads, rank, keys), lambda: both()[:, :keys].transpose(0, 2, 1)
    yield name.replace("kv_b", "v_b"), (heads, values, rank), lambda: both()[:, keys:]


def make_reader(source: Folder, name: str) -> Callable[[], Array]:
    """The tensor as it is."""
    return lambda: source.read(name)


def make_stack(source: Folder, names: list[str]) -> Callable[[], Array]:
    """Several tensors as one."""
    return lambda: np.stack([source.read(name) for name in names])


def to_gguf(names: Any, name: str) -> str:
    """llama.cpp's name of a tensor."""
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise SystemExit(f"llama.cpp has no name for the tensor {name}")
    return str(found)


if __name__ == "__main__":
    main()
