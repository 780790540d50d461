from __future__ import annotations

import pytest
import torch

import tiny_models


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """A model of a few thousand weights is computed many times faster by one thread than by several that wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A saved tiny T5."""
    return tiny_models.tiny("t5", tmp_path_factory.mktemp("t5") / "t5")


@pytest.fixture(scope="module")
def flan(tmp_path_factory):
    """A saved tiny FLAN-T5, whose output head is a weight of its own."""
    return tiny_models.tiny("flan-t5", tmp_path_factory.mktemp("flan") / "flan")
