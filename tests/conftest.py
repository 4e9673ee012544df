"""Settings of the whole suite."""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from relkernels import _core

for profile, examples in (("default", 40), ("few", 12)):
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize="CI" in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("default")


# Parametrized by scikit-learn, which takes no marks: fits of 10 to 30 s each, or of 2 to 4 s whose check
# other parameters pass as well.
SLOW_CHECKS = (
    "AsymmetricRelation()-check_estimator_sparse_array",
    "AsymmetricRelation()-check_estimator_sparse_matrix",
    "AsymmetricRelation()-check_estimator_sparse_tag",
    "AsymmetricRelation()-check_sample_weight_equivalence_on_sparse_data",
)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves the marked ones out
def pytest_collection_modifyitems(items):
    for item in items:
        if any(check in item.name for check in SLOW_CHECKS):
            item.add_marker(pytest.mark.slow)


def pytest_report_header():
    return f"relkernels {_core.__version__}, instruction set {_core.isa}"


def pytest_terminal_summary(terminalreporter):
    """List skipped tests by reason: most need a GPU or an optional library, hundreds for the same reason."""
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, (tuple, list))
    )
    if skipped:
        terminalreporter.section("skipped tests by reason", sep="-")
        for reason, count in skipped.most_common():
            terminalreporter.write_line(f"{count:5} {reason}")


@pytest.fixture
def rng():
    return np.random.default_rng(20240213)


@pytest.fixture(scope="module", params=[pytest.param("emulated", marks=pytest.mark.slow), "cupy", "torch"])
def device(request):
    """The devices for tests of CUDA arrays: the emulated GPU, and a real one through two libraries."""
    import cuda_arrays

    if request.param != "emulated":
        yield cuda_arrays.gpu(request.param)
        return
    if "RELKERNELS_ISA" in os.environ:
        pytest.skip("the emulated GPU is the same whatever RELKERNELS_ISA says")
    with cuda_arrays.in_place_of_the_extension(cuda_arrays.emulated_kernels()):
        yield cuda_arrays.EmulatedDevice()


@pytest.fixture
def recorder():
    """The recorder of `cuda_recorder` in place of the CUDA kernels."""
    import cuda_arrays
    import cuda_recorder

    made = cuda_recorder.Recorder()
    with cuda_arrays.in_place_of_the_extension(made):
        yield made
