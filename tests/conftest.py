"""What every test may rely on."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.contract.jetstream import shared_cluster
from tests.logs import logs

# Whoever starts the tests in the background may have left Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says more of what else this machine does than of the example.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(params=["sqlite", pytest.param("jetstream", marks=pytest.mark.slow)])
def each_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test once on each log, where it opens it by `serving` or `working`."""
    if request.param == "jetstream":
        logs.replicate(shared_cluster().url)
    yield
    logs.keep_here()
