"""Every test of the contract runs on every backend."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from eventstore.contract import EventLog
from tests.contract.backend import BACKENDS, Backend


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Backend, None]:
    made = BACKENDS[request.param](tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def log(backend: Backend) -> EventLog:
    return await backend.open()


@pytest.fixture
async def other(backend: Backend, log: EventLog) -> EventLog:
    return await backend.second()
