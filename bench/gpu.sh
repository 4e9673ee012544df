#!/usr/bin/env bash
# Build with the CUDA kernels, test and benchmark on a machine with a GPU and without network, in under 9 minutes:
#
#     bash bench/gpu.sh --dry-run               # lists what would run, in which order, and about when
#     bash bench/gpu.sh [FOLDER] [workload ...]
#
# writes RESULTS.md, results/gpu.json and .md and the tests' report and logs to FOLDER (bench by default).
# Requires nvcc, PyTorch, NumPy, scikit-build-core, pybind11, CMake, ninja and pytest; uses CuPy and hypothesis if
# they are installed.
set -uo pipefail

begin=$SECONDS
limit=${RELKERNELS_GPU_SECONDS:-530}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
# The files of tests, the operations that most others build on first.
tests="tests/test_cuda.py tests/test_cuda_vjp.py tests/test_cuda_promises.py tests/test_cuda_host.py
    tests/test_cuda_refusals.py tests/test_cuda_search.py tests/test_cuda_scoring.py tests/test_cuda_relational.py
    tests/test_cuda_links.py tests/test_cuda_loss.py tests/test_cuda_bands.py tests/test_cuda_grouped.py
    tests/test_cuda_ragged.py tests/test_cuda_normalize.py tests/test_cuda_torch.py tests/test_cuda_gpu.py tests/test_torch_cuda.py"
if [ "${1:-}" = --dry-run ]; then
    if ! "$python" -c 'import relkernels' 2>/dev/null; then
        echo "The list of benchmarks needs relkernels: pip install . (PYTHON names another interpreter)" >&2
        exit 1
    fi
    processors=$(nproc)
    # Processor seconds of a build for one architecture, and the longest file, on a Xeon of 2023.
    build=$((360 / processors + 25))
    echo "0 s: build, about $build s with $processors processors"
    echo "$build s: tests, until they end or take 40 % of the time left, at most $(((limit - build) * 4 / 10)) s:"
    echo $tests
    echo "then benchmarks, until second $((limit - 45)); their seconds are counted from the first:"
    cd "$root" && exec "$python" bench/gpu.py --dry-run
fi
folder=$(mkdir -p "${1:-$root/bench}/results" && cd "${1:-$root/bench}" && pwd)
[ $# -gt 0 ] && shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
left() { echo $((limit - (SECONDS - begin))); }
section() { printf '\n==== %s (%d s)\n' "$*" $((SECONDS - begin)); }

cd "$root"
section "the GPU"
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; then
    echo "No GPU was found: nvidia-smi lists none. Nothing was built, tested or measured."
    exit 0
fi

section "build"
# Into a separate folder, so that installed packages do not change.
if ! timeout "$(left)" "$python" -m pip install -q --no-index --no-build-isolation --no-deps \
    --target "$work/site" -Cbuild-dir="$work/build" -Ccmake.define.RELKERNELS_CUDA=ON . >"$folder/results/gpu-build.log" 2>&1; then
    tail -40 "$folder/results/gpu-build.log"
    echo "The build failed."
    exit 1
fi
export PYTHONPATH="$work/site" RELKERNELS_BUILD_DIR="$work/build"
"$python" -m relkernels info || exit 1

section "tests"
status=0
if "$python" -c 'import pytest, hypothesis, ml_dtypes' 2>/dev/null; then
    # Only on the GPU; the emulated cases run on machines without one.
    # If time is short, interrupt instead of killing, so that pytest still writes its report.
    timeout -s INT -k 20 "$(($(left) * 4 / 10))" "$python" -m pytest -q -p no:cacheprovider -k "not emulated" \
        --junitxml="$folder/results/gpu-tests.xml" $tests \
        2>&1 | tee "$folder/results/gpu-tests.log" | grep -v '^SKIPPED' | tail -25
    status=${PIPESTATUS[0]}
    [ "$status" = 124 ] && echo "The tests ran out of time."
else
    echo "Not run: they need pytest, hypothesis and ml_dtypes."
fi

section "benchmarks"
timeout "$(left)" "$python" bench/gpu.py --save "$folder" --seconds "$(($(left) - 45))" \
    --tests "$folder/results/gpu-tests.xml" "$@"
measured=$?

section "done: tests $status, benchmarks $measured"
exit $((status || measured))
