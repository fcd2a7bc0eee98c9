"""Servers for the tests of audiomask.runtime.net.server."""

import pytest
from serving import Running


@pytest.fixture(scope="module")
def running(toy, array3):
    made = Running(toy, array3)
    yield made
    made.stop()
    assert not made.reports


@pytest.fixture
def serve(toy):
    """A server of its own for a test: ``serve(**settings)``."""
    made = []

    def start(*names, **settings):
        made.append(Running(*(names or (toy,)), **settings))
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.fixture(scope="module")
def swift(tmp_path_factory, toys):
    """A model that only delays: as fast as sockets can fill it."""
    return toys.build(tmp_path_factory.mktemp("swift") / "swift.onnx", name="swift", pole=None)
