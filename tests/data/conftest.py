"""What tests of data sets share."""

from pathlib import Path

import pytest

import metalab.data.datasets.drawings.omniglot as module


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def no_download(monkeypatch):
    def fetch(*_):
        raise AssertionError("a download was begun")

    monkeypatch.setattr(module, "fetch", fetch)


@pytest.fixture
def root(tmp_path) -> Path:
    """Where a data set's files are put."""
    return tmp_path / "images"
