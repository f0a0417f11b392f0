"""What is said of a model's folder without opening a weight, and of presets that are downloaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from i2v.errors import ModelFilesError
from i2v.models.download import download, is_installed, model_folder, size_on_disk
from i2v.models.files import check_family, check_folder
from i2v.presets.model_preset import ModelPreset, load_presets, preset_named

# What the pinned commit of ali-vilab/i2vgen-xl holds, from its page on the hub.
_PARTS = {
    "doc": "i2vgen-xl.md introduction.pdf",
    "feature_extractor": "preprocessor_config.json",
    "image_encoder": "config.json model.fp16.safetensors model.safetensors",
    "models": "i2vgen_xl_00854500.pth open_clip_pytorch_model.bin v2-1_512-ema-pruned.ckpt",
    "scheduler": "scheduler_config.json",
    "source": "VGen.jpg logo.png",
    "text_encoder": "config.json model.fp16.safetensors model.safetensors",
    "tokenizer": "merges.txt special_tokens_map.json tokenizer_config.json vocab.json",
    "unet": "config.json diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors",
    "vae": "config.json diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors",
}
_ON_THE_HUB = [f"{part}/{name}" for part, names in _PARTS.items() for name in names.split()]
_ON_THE_HUB += ["README.MD", "README.md", "README_diffusers.md", "model_index.json", ".gitattributes"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.small_checkpoint import save_small_checkpoint

    return save_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def preset() -> ModelPreset:
    return preset_named("i2vgen-xl")


@pytest.fixture
def installed(checkpoint: Path, preset: ModelPreset, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, model_folder(preset, tmp_path))


def test_model_is_installed_only_while_all_its_parts_are_there(
    installed: Path, preset: ModelPreset, tmp_path: Path
) -> None:
    assert not is_installed(preset, tmp_path / "elsewhere")
    assert size_on_disk(preset, tmp_path / "elsewhere") == 0
    assert is_installed(preset, tmp_path)
    assert size_on_disk(preset, tmp_path) > 100_000
    for part in json.loads((installed / "model_index.json").read_text()):
        if not part.startswith("_"):
            (installed / part).rename(installed / "gone")
            assert not is_installed(preset, tmp_path), part
            (installed / "gone").rename(installed / part)
    assert is_installed(preset, tmp_path)


def test_file_cut_by_one_byte_is_noticed(installed: Path, preset: ModelPreset, tmp_path: Path) -> None:
    for path in installed.rglob("*.safetensors"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert not is_installed(preset, tmp_path), path
        path.write_bytes(whole)
    assert is_installed(preset, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("model_index.json", "{", "model_index.json is not readable"),
        ("model_index.json", "[]", "model_index.json is not readable"),
        ("tokenizer/vocab.json", None, "tokenizer has no vocabulary"),
        ("unet/config.json", None, "unet has no config.json"),
        ("scheduler/scheduler_config.json", None, "scheduler has no scheduler_config.json"),
    ],
)
def test_missing_or_broken_small_file_is_named(installed: Path, file: str, content: str | None, sentence: str) -> None:
    if content is None:
        (installed / file).unlink()
    else:
        (installed / file).write_text(content)
    with pytest.raises(ModelFilesError, match=sentence):
        check_folder(installed)


def test_folder_without_an_index_is_judged_by_the_weights_in_it(installed: Path) -> None:
    (installed / "model_index.json").unlink()
    check_folder(installed)
    weights = installed / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelFilesError, match="cut short"):
        check_folder(installed)


@pytest.mark.parametrize("without_index", [False, True])
def test_folder_of_another_family_is_refused_in_one_sentence_before_any_weight_is_read(
    tmp_path: Path, without_index: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with the parts of the built-in model stands where I2VGen-XL's should be, and the other way round."""
    import torch

    from i2v.engine.run import Engine, RunSpec
    from i2v.jobs.folder import JobFolder
    from i2v.models import loading
    from i2v.request import build_request

    wanted, other = preset_named("i2vgen-xl"), preset_named("motion")
    folder = shutil.copytree(model_folder(other, tmp_path), model_folder(wanted, tmp_path))
    if without_index:
        (folder / "model_index.json").unlink()
        (folder / "unet" / "config.json").write_text('{"_class_name": "UNet3DConditionModel"}')
    monkeypatch.setattr(loading, "load_weights", lambda *_: pytest.fail("weights were read"))
    sentence = r"^[^\n]* is a folder of another family: [^\n]*$"
    assert not is_installed(wanted, tmp_path)
    with pytest.raises(ModelFilesError, match=sentence):
        check_family(folder, wanted.declared)
    with pytest.raises(ModelFilesError, match=sentence):
        loading.load_parts(folder, wanted.declared, torch.device("cpu"), torch.float32)
    request = build_request({"model": "i2vgen-xl", "prompt": ""}, (64, 64))
    with pytest.raises(ModelFilesError, match=sentence):
        Engine().run(RunSpec("0" * 16, 1, request, tmp_path, JobFolder(tmp_path)), lambda *_: None, lambda: False)
    check_family(model_folder(other, tmp_path), other.declared)


def test_folder_whose_index_names_another_class_is_of_another_family(installed: Path, preset: ModelPreset) -> None:
    index = json.loads((installed / "model_index.json").read_text())
    check_family(installed, preset.declared)
    (installed / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKLWan"]}))
    with pytest.raises(ModelFilesError, match="its vae is of class AutoencoderKLWan, not AutoencoderKL"):
        check_family(installed, preset.declared)


def test_model_that_ships_with_the_code_is_never_downloaded(tmp_path: Path) -> None:
    shipped = preset_named("motion")
    assert download(shipped, tmp_path, lambda done, total: None, lambda: False) == model_folder(shipped, tmp_path)
    assert not any(tmp_path.iterdir())


def test_allow_list_takes_the_small_weights_and_never_a_pickle(preset: ModelPreset) -> None:
    assert preset.hub is not None
    taken = [name for name in _ON_THE_HUB if any(fnmatchcase(name, pattern) for pattern in preset.hub.files)]
    assert {Path(name).suffix for name in taken} == {".json", ".txt", ".safetensors"}
    assert all(".fp16." in name for name in taken if name.endswith(".safetensors"))
    assert {Path(name).parent.name for name in taken} == {*_PARTS, ""} - {"doc", "models", "source"}
    assert len(taken) == 15


def test_every_preset_from_the_hub_is_pinned_to_a_commit_and_says_its_licence() -> None:
    for preset in load_presets().values():
        assert preset.licence
        assert preset.licence_note
        if preset.hub:
            assert len(preset.hub.revision) == 40
            assert set(preset.hub.revision) <= set("0123456789abcdef")
            assert 2 * preset.parameters <= preset.hub.download_bytes < 2.01 * preset.parameters


def test_looking_at_models_needs_no_torch() -> None:
    code = (
        "import sys, pathlib; from i2v.models.download import is_installed\n"
        "from i2v.presets.model_preset import load_presets\n"
        "print([is_installed(p, pathlib.Path('/nowhere')) for p in load_presets().values()])\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'huggingface_hub', 'gradio')))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
