"""Weights that stay in their files: the same to the bit as loaded ones, and no memory of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, I2VGenXLUNet, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from i2v.errors import ModelFilesError
from i2v.memory.weights.block_stream import BlockStream
from i2v.memory.weights.leaf_stream import LeafStream
from i2v.memory.weights.mapped import MappedFile, is_mapped, module_dtype, wished_dtype
from i2v.memory.weights.masters import MainMemory
from i2v.memory.weights.parked import ParkedWeights
from i2v.models.loading import load_weights
from tests import small_checkpoint
from tests.unit.test_block_stream import MODELS, run_t5, run_wan, wan
from tests.unit.test_weights import made

CPU = torch.device("cpu")
T5_SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BUILDS: dict[type, Any] = {
    WanTransformer3DModel: wan,
    I2VGenXLUNet: small_checkpoint._unet,
    AutoencoderKL: small_checkpoint._vae,
    CLIPTextModel: small_checkpoint._text_encoder,
    CLIPVisionModelWithProjection: small_checkpoint._image_encoder,
    # gated: with the matrix `wo` that transformers keeps in float32 when float16 is asked for
    T5EncoderModel: lambda: T5EncoderModel(T5Config(**T5_SIZES, feed_forward_proj="gated-gelu")),
    UMT5EncoderModel: lambda: UMT5EncoderModel(UMT5Config(**T5_SIZES, feed_forward_proj="gated-gelu")),
}


def saved(folder: Path, cls: type, dtype: torch.dtype = torch.float32, shards: bool = False) -> Path:
    module = made(BUILDS[cls])
    for part in module.modules():
        part._apply(lambda weight: weight.to(dtype) if weight.is_floating_point() else weight, recurse=False)
    module.save_pretrained(folder / "part", max_shard_size="10KB" if shards else "5GB")
    assert (len(list((folder / "part").glob("*.safetensors"))) > 1) == shards
    return folder


def weights(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


# The same as loaded


@pytest.mark.parametrize("wished", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("cls", BUILDS)
def test_mapped_weights_are_what_from_pretrained_gives(
    cls: type, stored: torch.dtype, wished: torch.dtype, tmp_path: Path
) -> None:
    folder = saved(tmp_path, cls, stored)
    loaded = weights(load_weights(folder, "part", cls, CPU, wished))
    module = load_weights(folder, "part", cls, CPU, wished, keep_mapped=True)
    mapped = weights(module)
    assert mapped.keys() == loaded.keys()
    assert sum(map(is_mapped, mapped.values())) > 0.8 * len(mapped)
    assert all(weight.device.type == "cpu" for weight in mapped.values())
    assert module_dtype(module) == wished
    parked = ParkedWeights(module, "cpu")
    parked.bring()
    for name, weight in weights(module).items():
        assert weight.dtype == loaded[name].dtype, name
        assert torch.equal(weight, loaded[name]), name
    parked.drop()
    assert all(now is mapped[name] for name, now in weights(module).items())
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("cls", [WanTransformer3DModel, UMT5EncoderModel])
def test_files_in_shards_are_mapped_too(cls: type, tmp_path: Path) -> None:
    folder = saved(tmp_path, cls, shards=True)
    loaded = weights(load_weights(folder, "part", cls, CPU, torch.float32))
    mapped = weights(load_weights(folder, "part", cls, CPU, torch.float32, keep_mapped=True))
    for name, weight in mapped.items():
        assert torch.equal(weight, loaded[name]), name


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    folder = saved(tmp_path, UMT5EncoderModel)
    module: Any = load_weights(folder, "part", UMT5EncoderModel, CPU, torch.float32, keep_mapped=True)
    assert module.shared.weight is module.encoder.embed_tokens.weight
    assert is_mapped(module.shared.weight)


def test_files_of_several_dtypes_are_loaded_right(tmp_path: Path) -> None:
    folder = saved(tmp_path, UMT5EncoderModel)
    path = folder / "part" / "model.safetensors"
    tensors = {name: t.half() if "SelfAttention" in name else t for name, t in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    loaded = weights(load_weights(folder, "part", UMT5EncoderModel, CPU, torch.float32))
    mapped = weights(load_weights(folder, "part", UMT5EncoderModel, CPU, torch.float32, keep_mapped=True))
    assert all(torch.equal(weight, loaded[name]) for name, weight in mapped.items())


@pytest.mark.parametrize("cls", [WanTransformer3DModel, UMT5EncoderModel])
@pytest.mark.parametrize("damage", ["lacks", "has another shape"])
def test_absent_tensors_are_refused_as_when_loading(cls: type, damage: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, cls)
    path = next((folder / "part").glob("*.safetensors"))
    tensors = load_file(path)
    name = next(name for name in tensors if "to_q.weight" in name or "SelfAttention.q.weight" in name)
    tensors = {key: t for key, t in tensors.items() if key != name}
    if damage != "lacks":
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelFilesError, match=r"lack 1 tensors|does not hold a"):
        load_weights(folder, "part", cls, CPU, torch.float32, keep_mapped=True)


def test_a_number_type_that_is_not_known_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = saved(tmp_path, WanTransformer3DModel)
    path = next((folder / "part").glob("*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"dtype":"F32"', b'"dtype":"U32"'))
    with pytest.raises(ModelFilesError, match=r"does not hold a WanTransformer3DModel: .*'U32'"):
        load_weights(folder, "part", WanTransformer3DModel, CPU, torch.float32, keep_mapped=True)


# Streamed from the file


@pytest.mark.parametrize("with_ring", [False, True])
@pytest.mark.parametrize("wished", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("cls", "run"), [(WanTransformer3DModel, run_wan), (UMT5EncoderModel, run_t5)])
def test_blocks_streamed_from_files_say_the_same(
    cls: type, run: Any, wished: torch.dtype, with_ring: bool, tmp_path: Path
) -> None:
    folder = saved(tmp_path, cls)
    blocks_of = MODELS["wan" if cls is WanTransformer3DModel else "umt5"][1]
    # copied, because from_pretrained's weights lie in the file, unaligned, which changes the CPU's order of summation
    loaded = deepcopy(load_weights(folder, "part", cls, CPU, wished))
    module = load_weights(folder, "part", cls, CPU, wished, keep_mapped=True)
    memory = MainMemory(False, lambda size: torch.empty(size, dtype=torch.uint8), with_ring=with_ring)
    stream = BlockStream(module, blocks_of(module), "cpu", pin=memory, table_bytes=3000)
    with torch.inference_mode():
        expected = run(loaded, "cpu")
        for keep in (0, 1):
            stream.set_keep(keep)
            assert torch.equal(run(module, "cpu"), expected)
    stream.remove()
    assert all(is_mapped(weight) for block in blocks_of(module) for weight in block.parameters())


def test_a_table_in_a_file_is_looked_up_in_the_wished_dtype(tmp_path: Path) -> None:
    folder = saved(tmp_path, UMT5EncoderModel)
    module: Any = load_weights(folder, "part", UMT5EncoderModel, CPU, torch.bfloat16, keep_mapped=True)
    expected = module.shared.weight.bfloat16()[:5]
    LeafStream(module, "cpu", pin=False, table_bytes=3000)
    assert is_mapped(module.shared.weight)
    rows = module.shared(torch.arange(5))
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, expected)


def test_pinned_masters_of_mapped_weights_have_the_wished_dtype(tmp_path: Path) -> None:
    folder = saved(tmp_path, WanTransformer3DModel)
    module: Any = load_weights(folder, "part", WanTransformer3DModel, CPU, torch.bfloat16, keep_mapped=True)
    asked: list[int] = []
    memory = MainMemory(True, lambda size: asked.append(size) or torch.empty(size, dtype=torch.uint8))  # type: ignore[func-returns-value]
    parked = ParkedWeights(module.blocks[0].attn1, "cpu", pin=memory)
    assert asked == [parked.slab_bytes]
    assert {weight.dtype for weight in module.blocks[0].attn1.parameters()} == {torch.bfloat16}
    assert not any(map(is_mapped, module.blocks[0].attn1.parameters()))


def test_a_weight_that_is_replaced_is_not_mapped_any_more(tmp_path: Path) -> None:
    folder = saved(tmp_path, WanTransformer3DModel)
    module: Any = load_weights(folder, "part", WanTransformer3DModel, CPU, torch.bfloat16, keep_mapped=True)
    weight = module.proj_out.weight
    assert wished_dtype(weight) == torch.bfloat16
    module.proj_out.to(torch.float16)
    assert module.proj_out.weight is weight
    assert not is_mapped(weight)
    assert wished_dtype(weight) == torch.float16


# No memory of its own

MEASURE = """
import sys
from pathlib import Path
import torch
from i2v.memory.weights.mapped import MappedFile
from i2v.memory.weights.parked import ParkedWeights

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)
layers = torch.nn.ModuleList()
warm = torch.ones(1000).sum()
before = anonymous()
file = MappedFile(Path(sys.argv[1]))
for name, tensor in file.tensors.items():
    layer = torch.nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(tensor, requires_grad=False)
    file.mark(layer.weight, torch.float32)
    layers.append(layer)
total = sum(float(layer.weight.sum()) for layer in layers)  # every page is read
loaded = anonymous() - before
parked = ParkedWeights(layers[0], "cpu")
parked.bring()
brought = anonymous() - before - loaded
parked.drop()
print(loaded, brought, int(total))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's own count of private memory is Linux's")
def test_loading_takes_no_memory_and_bringing_takes_one_block(tmp_path: Path) -> None:
    block = 16 << 20
    path = tmp_path / "model.safetensors"
    save_file({f"{at}": torch.ones(2048, 2048) for at in range(6)}, path)
    command = [sys.executable, "-c", MEASURE, str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    loaded, brought, total = map(int, finished.stdout.split())
    assert total == 6 * 2048 * 2048
    assert loaded < block // 2
    assert block <= brought + (1 << 20)
    assert brought < 2 * block


def test_a_mapping_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(8)}, path)
    file = MappedFile(path)
    lines = Path("/proc/self/maps").read_text().splitlines() if sys.platform.startswith("linux") else []
    found = [line.split()[1] for line in lines if line.endswith(str(path))]
    assert torch.equal(file.tensors["weight"], torch.ones(8))
    assert all(rights.startswith("r--") for rights in found)


def test_data_that_is_not_aligned_is_read_right(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    header += b" " * ((-len(header)) % 8 + 3)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + torch.arange(4.0).numpy().tobytes())
    assert torch.equal(MappedFile(path).tensors["a"], torch.arange(4.0).view(2, 2))
