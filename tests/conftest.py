"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the hub for anything


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands first: processes that share the tests are then done at about the same time."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with its tokenizer, as a user's folder would be."""
    from tests.models import byte_llama, byte_tokenizer  # not for tests that never touch torch

    folder = tmp_path_factory.mktemp("models") / "tiny"
    byte_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
