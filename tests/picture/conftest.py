from __future__ import annotations

import pytest
from drawn_flows import big_flow, small_flow
from hamilton import driver


@pytest.fixture
def small() -> driver.Driver:
    return small_flow()


@pytest.fixture
def big() -> driver.Driver:
    return big_flow()
