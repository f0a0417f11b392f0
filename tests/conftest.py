"""Fixtures shared by all tests: a home folder of its own and real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach a hub
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh I2V_HOME."""
    folder = tmp_path / "home"
    monkeypatch.setenv("I2V_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photograph of 451x300 as a JPEG file (scikit-image's cat)."""
    from skimage import data

    path = tmp_path_factory.mktemp("photos") / "chelsea.jpg"
    Image.fromarray(data.chelsea()).save(path, quality=95)
    return path
