"""Settings of the whole suite."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from relkernels import _core

settings.register_profile(
    "default",
    max_examples=40,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


def pytest_report_header():
    return f"relkernels {_core.__version__}, instruction set {_core.isa}"


@pytest.fixture
def rng():
    return np.random.default_rng(20240213)
