"""One thread a test process (tiny tensors only lose by more), and the Hub switched off."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch

from toy import toy_folder, toy_text

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama's folder; do not change it."""
    return toy_folder(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file long enough for small runs."""
    return toy_text(tmp_path_factory.mktemp("text"))
