"""Files written in pieces are the files that safetensors writes and reads."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deepground.errors import ModelFolderError
from deepground.model.shard_writer import ShardWriter, StoredTensor
from deepground.model.tensor_files import Checkpoint

VALUES: dict[str, Tensor] = {
    "codes": torch.arange(33, dtype=torch.uint8).reshape(11, 3),
    "fp8": torch.randn(7, 5).to(torch.float8_e4m3fn),
    "scale": torch.randn(3, 3),
    "half": torch.randn(5, 1).bfloat16(),
    "empty": torch.empty(0, 4),
    "ends": torch.randn(9).half(),
}
STORED = [StoredTensor(name=name, dtype=value.dtype, shape=tuple(value.shape)) for name, value in VALUES.items()]


def _bytes(value: Tensor) -> bytes:
    data: bytes = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def test_any_order_and_any_pieces(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, STORED) as writer:
        for name, value in reversed(VALUES.items()):
            skip = 0
            for piece in value.split(2):
                writer.write(name, piece, skip=skip)
                skip += piece.nbytes
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert oct((tmp_path / "model.safetensors").stat().st_mode & 0o777) == "0o644"
    stored = load_file(tmp_path / "model.safetensors")
    assert {name: _bytes(value) for name, value in stored.items()} == {n: _bytes(v) for n, v in VALUES.items()}
    assert {name: value.shape for name, value in stored.items()} == {n: v.shape for n, v in VALUES.items()}


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, STORED):
        pass
    content = (tmp_path / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    for tensor in STORED:
        assert header[tensor.name]["data_offsets"][0] % tensor.dtype.itemsize == 0


def test_shards_and_their_index(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, STORED, max_shard_bytes=64) as writer:
        for name, value in VALUES.items():
            writer.write(name, value)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(value.nbytes for value in VALUES.values())}
    with Checkpoint(tmp_path) as checkpoint:
        assert {name: info.path.name for name, info in checkpoint.tensors.items()} == index["weight_map"]
        assert all(_bytes(checkpoint.read(name)) == _bytes(value) for name, value in VALUES.items())


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path: Path) -> None:
    huge = StoredTensor(name="huge", dtype=torch.uint8, shape=(2**40, 2**20))
    with pytest.raises(ModelFolderError, match=r"take 1073741824\.00 GiB and .* GiB free; make room"):
        ShardWriter(tmp_path, [huge])
    assert list(tmp_path.iterdir()) == []


def test_too_many_bytes_are_a_bug(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, STORED) as writer, pytest.raises(ValueError, match="scale has 36 bytes, and 40"):
        writer.write("scale", torch.zeros(1), skip=36)
