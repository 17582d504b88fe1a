"""Folders damaged in every way that downloads, disks and strangers manage: each a clear error of its own."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from config_samples import TINY
from deepground.errors import ConfigError, ModelFolderError, UnsafeFileError, UnsupportedModelError, WeightsError
from deepground.model import Decoder, load_model, save_model
from deepground.model.families import read_config

Damage = Callable[[Path], None]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def _sound(folder: Path, *, sharded: bool, fp8: bool = False) -> None:
    decoder = Decoder(read_config(TINY["deepseek_v3"]))
    decoder.init_weights(1)
    size = 30_000 if sharded else 10**9
    save_model(decoder, folder, weight_format="fp8-ue8m0" if fp8 else "float32", max_shard_bytes=size)


def _edit_json(name: str, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _edit_tensors(edit: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / SINGLE)
        edit(tensors)
        save_file(tensors, folder / SINGLE)

    return damage


def _write(name: str, content: bytes) -> Damage:
    return lambda folder: _replace(folder / name, content)


def _replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def _truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def _only(folder: Path, name: str) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / name).write_bytes(b"\x80\x04.")


def _point_index_at(file: str) -> Damage:
    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"]["model.norm.weight"] = file
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def _header(**entry: Any) -> Damage:
    text = json.dumps({"model.norm.weight": entry}).encode()
    return _write(SINGLE, struct.pack("<Q", len(text)) + text + b"\0" * 16)


def _as_directory(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / SINGLE).mkdir()


def _drop(name: str) -> Damage:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return _edit_tensors(remove)


def _set(name: str, value: torch.Tensor) -> Damage:
    return _edit_tensors(lambda tensors: tensors.update({name: value}))


NORM = "model.norm.weight"
O_PROJ = "model.layers.1.self_attn.o_proj.weight"
SCALE = f"{O_PROJ}_scale_inv"

# name: kind of folder, damage, error, and what its text must say (the file or field, and the cure)
CASES: dict[str, tuple[str, Damage, type[ModelFolderError], str]] = {
    "config missing": (
        "one",
        lambda f: (f / "config.json").unlink(),
        ConfigError,
        r"config\.json does not exist.*download",
    ),
    "config not JSON": (
        "one",
        _write("config.json", b'{"a": '),
        ConfigError,
        r"config\.json is not valid JSON.*restore",
    ),
    "config with unknown family": (
        "one",
        _edit_json("config.json", model_type="gpt5"),
        UnsupportedModelError,
        r"model_type is 'gpt5'.*known: deepseek_v2",
    ),
    "config with absurd size": (
        "one",
        _edit_json("config.json", hidden_size=10**9),
        ConfigError,
        r"hidden_size is 1000000000; allowed: a whole number from 1 to",
    ),
    "config with NaN": (
        "one",
        _edit_json("config.json", rms_norm_eps=float("nan")),
        ConfigError,
        "rms_norm_eps is nan",
    ),
    "config of another size": (
        "one",
        _edit_json("config.json", intermediate_size=96),
        WeightsError,
        r"model\.safetensors: the tensor model\.layers\.0\.mlp\.\w+_proj\.weight has the shape .*restore the config",
    ),
    "config with more layers": (
        "one",
        _edit_json("config.json", num_hidden_layers=40, num_nextn_predict_layers=0),
        WeightsError,
        r"tensors \(model\.layers\.4\.self_attn.*missing.*restore the config",
    ),
    "config of another quantisation": (
        "one",
        _edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        UnsupportedModelError,
        "quant_method is 'gptq'",
    ),
    "file truncated": (
        "one",
        lambda f: _truncate(f / SINGLE, (f / SINGLE).stat().st_size - 100),
        WeightsError,
        r"model\.safetensors is truncated: the tensor .* download it again",
    ),
    "file truncated within its header": (
        "one",
        lambda f: _truncate(f / SINGLE, 50),
        WeightsError,
        "truncated or no safetensors file.*download it again",
    ),
    "file empty": ("one", _write(SINGLE, b""), WeightsError, "only 0 bytes.*download it again"),
    "file of another kind": ("one", _write(SINGLE, b"<!DOCTYPE html> login"), WeightsError, "no safetensors file"),
    "header length absurd": (
        "one",
        _write(SINGLE, b"\xff" * 64),
        WeightsError,
        "would have 18446744073709551615 bytes",
    ),
    "header not JSON": (
        "one",
        _write(SINGLE, struct.pack("<Q", 4) + b"\xfe{}}" + b"\0" * 9),
        WeightsError,
        "damaged header",
    ),
    "header not an object": ("one", _write(SINGLE, struct.pack("<Q", 2) + b"[]"), WeightsError, "not a JSON object"),
    "header deeply nested": (
        "one",
        _write(SINGLE, struct.pack("<Q", 90_000) + b"[" * 90_000),
        WeightsError,
        "damaged header",
    ),
    "offsets out of range": (
        "one",
        _header(dtype="F32", shape=[32], data_offsets=[10**15, 10**15 + 128]),
        WeightsError,
        r"ends at byte 1000000000000128",
    ),
    "offsets negative": (
        "one",
        _header(dtype="F32", shape=[32], data_offsets=[-128, 0]),
        WeightsError,
        r"entry of the tensor model\.norm\.weight makes no sense",
    ),
    "offsets that belie the shape": (
        "one",
        _header(dtype="F32", shape=[10**9, 10**9], data_offsets=[0, 16]),
        WeightsError,
        "makes no sense",
    ),
    "directory instead of a file": ("one", _as_directory, WeightsError, "is a directory, not a safetensors file"),
    "weights missing": ("one", lambda f: (f / SINGLE).unlink(), WeightsError, "holds no weights.*download"),
    "tensor missing": ("one", _drop(NORM), WeightsError, r"1 tensor \(model\.norm\.weight\) is missing.*download"),
    "tensor unknown": (
        "one",
        _set("model.extra", torch.zeros(1)),
        WeightsError,
        r"1 tensor \(model\.extra\) is unknown",
    ),
    "tensor of the wrong shape": (
        "one",
        _set(NORM, torch.ones(33)),
        WeightsError,
        r"model\.safetensors: the tensor model\.norm\.weight has the shape \(33,\), config\.json asks for \(32,\)",
    ),
    "tensor of the wrong type": (
        "one",
        _set(NORM, torch.ones(32, dtype=torch.int8)),
        WeightsError,
        r"the tensor model\.norm\.weight has the dtype I8; weights are read from F32",
    ),
    "pickle only": (
        "one",
        lambda f: _only(f, "pytorch_model.bin"),
        UnsafeFileError,
        r"pytorch_model\.bin, a pickle.*convert",
    ),
    "checkpoint file only": ("one", lambda f: _only(f, "model.pt"), UnsafeFileError, r"model\.pt, a pickle"),
    "GGUF only": ("one", lambda f: _only(f, "model.gguf"), UnsupportedModelError, "GGUF"),
    "index missing": ("many", lambda f: (f / INDEX).unlink(), WeightsError, rf"nor {INDEX}; download {INDEX} too"),
    "index not JSON": ("many", _write(INDEX, b"}"), WeightsError, f"{INDEX} is not valid JSON"),
    "index without a map": ("many", _write(INDEX, b"{}"), WeightsError, f"{INDEX} has no weight_map"),
    "index that leaves the folder": (
        "many",
        _point_index_at("../a.safetensors"),
        WeightsError,
        r"'\.\./a\.safetensors'.*trust",
    ),
    "index with an absolute path": ("many", _point_index_at("/etc/passwd"), WeightsError, "'/etc/passwd'.*hostile"),
    "index that names a pickle": ("many", _point_index_at("a.bin"), UnsafeFileError, r"'a\.bin'; only \.safetensors"),
    "index that names the wrong shard": (
        "many",
        lambda f: _point_index_at(_first_shard(f).name)(f),
        WeightsError,
        r"holds the tensor model\.norm\.weight, but it does not",
    ),
    "index that forgets a tensor": (
        "many",
        lambda f: _edit_json(
            INDEX, weight_map={k: v for k, v in json.loads((f / INDEX).read_text())["weight_map"].items() if k != NORM}
        )(f),
        WeightsError,
        r"holds the tensor model\.norm\.weight, which model\.safetensors\.index\.json does not list",
    ),
    "shard missing": (
        "many",
        lambda f: _first_shard(f).unlink(),
        WeightsError,
        r"model-00001-of-\d+\.safetensors is missing.*download",
    ),
    "shard truncated": (
        "many",
        lambda f: _truncate(_first_shard(f), _first_shard(f).stat().st_size - 1),
        WeightsError,
        r"model-00001-of-\d+\.safetensors is truncated",
    ),
    "scale missing": ("fp8", _drop(SCALE), WeightsError, r"FP8 tensor .*o_proj\.weight has no block scales.*download"),
    "scale of the wrong shape": (
        "fp8",
        _set(SCALE, torch.ones(2, 1)),
        WeightsError,
        r"o_proj\.weight_scale_inv: .*1 x 1.*\(2, 1\)",
    ),
    "scale NaN": (
        "fp8",
        _set(SCALE, torch.full((1, 1), torch.nan)),
        WeightsError,
        "o_proj.weight_scale_inv: a block scale is NaN",
    ),
    "scale without its weight": (
        "fp8",
        _set("model.stray_scale_inv", torch.ones(1, 1)),
        WeightsError,
        r"model\.stray_scale_inv belong to no",
    ),
    "scale beside a weight that is not FP8": (
        "fp8",
        _set(O_PROJ, torch.zeros(32, 32)),
        WeightsError,
        "has block scales but is F32",
    ),
    "weight that is a scale": (
        "fp8",
        _set(NORM, torch.ones(32).to(torch.float8_e8m0fnu)),
        WeightsError,
        "is F8_E8M0, a format for scales only",
    ),
    "quantisation forgotten": (
        "fp8",
        _edit_json("config.json", quantization_config=None),
        ConfigError,
        "quantization_config is missing, but the tensor .* is FP8",
    ),
}


@pytest.fixture(scope="module")
def sound_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    _sound(root / "one", sharded=False)
    _sound(root / "many", sharded=True)
    _sound(root / "fp8", sharded=False, fp8=True)
    for kind in ("one", "many", "fp8"):
        load_model(root / kind, dtype="float32")
    return {kind: root / kind for kind in ("one", "many", "fp8")}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_named_with_its_cure(name: str, sound_folders: dict[str, Path], tmp_path: Path) -> None:
    kind, damage, error, message = CASES[name]
    folder = tmp_path / "model"
    folder.mkdir()
    for path in sound_folders[kind].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises(ModelFolderError, match=message) as caught:
        load_model(folder, dtype="float32")
    assert type(caught.value) is error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", SINGLE])
def test_a_file_without_permission_is_named(name: str, sound_folders: dict[str, Path], tmp_path: Path) -> None:
    for path in sound_folders["one"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).chmod(0)
    with pytest.raises(ModelFolderError, match=f"{name} cannot be read .*check its permissions"):
        load_model(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_a_header_with_any_byte_changed_never_crashes(
    seed: int, sound_folders: dict[str, Path], tmp_path: Path
) -> None:
    """A changed byte makes a clear error, or another value; never another kind of failure."""
    for path in sound_folders["one"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / SINGLE).read_bytes())
    header = struct.unpack("<Q", content[:8])[0]
    generator = torch.Generator().manual_seed(seed)
    position = int(torch.randint(0, 8 + header, (), generator=generator))
    content[position] = int(torch.randint(0, 256, (), generator=generator))
    (tmp_path / SINGLE).write_bytes(content)
    with contextlib.suppress(ModelFolderError):
        load_model(tmp_path, dtype="float32")
