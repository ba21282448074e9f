"""A tiny bundle for the tests of the server, which no test changes."""

import pytest

import small_bundle


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("served") / "bundle"
    small_bundle.make(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_folder):
    from splitveil.deploy import bundle

    return bundle.read(bundle_folder)
