"""The compiled CUDA engine: registers and spills, instructions, libraries. Needs nvcc but no GPU."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("sm_80", "sm_90a")  # of those, a build may have fewer

# The most registers per thread and bytes of spills (stores and loads) that ptxas may report, for sm_80 and
# for sm_90a. The first family that matches a kernel's name applies. Attention, relational attention, their
# gradients and those of links of distances need more registers in float64 than a thread has.
LIMITS = [
    (r"sm90::relation_matrix_kernel<", {"sm_90a": (96, 0)}),  # two blocks of 9 warps share a multiprocessor
    (r"walk_pairs<rk::cuda::Half<", {"sm_80": (248, 0), "sm_90a": (248, 0)}),
    (r"walk_pairs<rk::cuda::Tf32", {"sm_80": (224, 0), "sm_90a": (224, 0)}),
    (r"walk_pairs<[^,]*(Fma|Distances)<float>", {"sm_80": (255, 0), "sm_90a": (255, 0)}),
    (r"walk_pairs<.*LinkGradientWeigher<double, true, false>", {"sm_80": (255, 2000), "sm_90a": (255, 2000)}),
    (r"walk_pairs<.*HeadWeigher<double>", {"sm_80": (255, 2200), "sm_90a": (255, 2200)}),
    (r"walk_pairs<.*RelationWeigher<double>", {"sm_80": (255, 3400), "sm_90a": (255, 3400)}),
    (r"walk_pairs<[^,]*Fma<double>.*RelatedSums<", {"sm_80": (255, 400), "sm_90a": (255, 400)}),
    (r"walk_pairs<[^,]*(Fma|Distances)<double>.*Weighted<", {"sm_80": (255, 1200), "sm_90a": (255, 1200)}),
    (r"walk_pairs<[^,]*Fma<double>.*StoreScoreGradient<", {"sm_80": (255, 160), "sm_90a": (255, 160)}),
    (r"walk_pairs<[^,]*(Fma|Distances)<double>", {"sm_80": (208, 0), "sm_90a": (208, 0)}),
    (r"map_rows<", {"sm_80": (168, 0), "sm_90a": (168, 0)}),
    (r"", {"sm_80": (96, 0), "sm_90a": (96, 0)}),
]


def extension():
    """The built extension, whether or not the imported package is the one beside it."""
    module = pytest.importorskip("relkernels._cuda", reason="the package was built without the CUDA engine")
    return Path(module.__file__)


@pytest.fixture(scope="session")
def objects():
    """The object files of the engine in the build directory."""
    extension()
    root = Path(os.environ.get("RELKERNELS_BUILD_DIR") or ROOT / "build")
    found = sorted(root.glob("**/cuda/CMakeFiles/*.dir/**/*.o"))
    if not found:
        pytest.skip(f"needs the build directory of the extension, looked in {root}")
    return found


def compiled_for():
    """The architectures that most kernels are compiled for."""
    from relkernels import _cuda

    return set(_cuda.build_info()["architectures"]) & set(ARCHITECTURES)


def demangled(names):
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def reports(objects):
    """The report of ptxas on each kernel: (architecture, name, registers, bytes of spills)."""
    found = []
    for path in objects:
        log = path.with_name(path.name + ".ptxas")
        text = log.read_text() if log.exists() else ""
        found += re.findall(
            r"Compiling entry function '(\S+)' for '(\S+)'.*?"
            r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", text, re.DOTALL,
        )  # fmt: skip
    names = demangled([entry[0] for entry in found])
    return [
        (architecture, name, int(registers), int(stores) + int(loads))
        for name, (_, architecture, stores, loads, registers) in zip(names, found, strict=True)
    ]


def test_registers_and_spills_stay_within_the_table(reports):
    # One file is for sm_90a in every build.
    assert {architecture for architecture, *_ in reports} == {*compiled_for(), "sm_90a"}
    unused = {pattern for pattern, _ in LIMITS}
    wrong = []
    for architecture, name, registers, spills in reports:
        pattern, limits = next((p, limits) for p, limits in LIMITS if re.search(p, name))
        unused.discard(pattern)
        most_registers, most_spills = limits[architecture]
        if registers > most_registers or spills > most_spills:
            wrong.append(f"{architecture}: {registers} registers, {spills} bytes of spills: {name}")
    assert not wrong, "\n".join(wrong)
    assert not unused, f"no kernel is of the families {unused}"


def test_no_product_of_warpgroups_is_serialized(objects):
    """ptxas warns (C7510 and others) if each product waits for the one before: correct, but slow."""
    logs = [path.with_name(path.name + ".ptxas") for path in objects if "wgmma" in path.name]
    assert logs
    for log in logs:
        assert "Compiling entry function" in log.read_text()
        assert "serialized" not in log.read_text()


@pytest.fixture(scope="session")
def disassembler():
    """An environment in which cuobjdump finds nvdisasm: from PyPI, or from a toolkit that has both."""
    installed = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "bin"
    path = os.pathsep.join([str(installed), os.environ.get("PATH", "")])
    for tool in ("cuobjdump", "nvdisasm"):
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"needs {tool}: pip install --no-deps nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return os.environ | {"PATH": path}


@pytest.fixture(scope="session")
def instructions(objects, disassembler):
    """The operations of each kernel, with their modifiers: {(object, architecture, name): set}."""
    operation = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)")

    def disassembled(path):
        found, architecture, current = {}, None, set()
        call = [shutil.which("cuobjdump", path=disassembler["PATH"]), "-sass", path]
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=disassembler) as process:
            for line in process.stdout:
                if match := operation.match(line):
                    current.add(match[1])
                elif "Function : " in line:
                    current = found.setdefault((architecture, line.split("Function : ")[1].strip()), set())
                elif line.startswith("arch = "):
                    architecture = line.split("=")[1].strip()
        assert process.returncode == 0, path
        return found

    kernels = [path for path in objects if path.name.endswith(".cu.o")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(kernels, pool.map(disassembled, kernels), strict=True))
    flat = [(path.name[:-5], *key, used) for path, found in results.items() for key, used in found.items()]
    names = demangled([name for _, _, name, _ in flat])
    return {(stem, arch, name): used for (stem, arch, _, used), name in zip(flat, names, strict=True)}


def expect(instructions, kernel, architecture, *operations):
    chosen = [(name, used) for (_, arch, name), used in instructions.items() if arch == architecture]
    chosen = [(name, used) for name, used in chosen if re.search(kernel, name)]
    assert chosen, f"no kernel is called {kernel} on {architecture}"
    for name, used in chosen:
        for pattern in operations:
            assert any(re.match(pattern, operation) for operation in used), f"{name} has no {pattern}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_those_of_their_arithmetic(instructions, architecture):
    if architecture not in compiled_for():
        pytest.skip(f"built without {architecture}")
    for arithmetic, product in [
        ("Half<rk::cuda::bfloat16>", r"HMMA\.16816\.F32\.BF16"),
        ("Half<rk::cuda::float16>", r"HMMA\.16816\.F32$"),
        ("Tf32", r"HMMA\.1688\.F32\.TF32"),
        ("Fma<float>", r"FFMA"),
        ("Fma<double>", r"DFMA|DMMA"),
    ]:
        expect(instructions, rf"walk_pairs<rk::cuda::{arithmetic}", architecture, product)


def test_warpgroup_products_are_fed_by_the_copy_engine(instructions):
    for half, suffix in [("bfloat16", r"\.BF16"), ("float16", "$")]:
        kernel, product = f"sm90::relation_matrix_kernel<rk::cuda::{half},", rf"HGMMA\.64x128x16\.F32{suffix}"
        expect(instructions, kernel, "sm_90a", product, r"UTMALDG\.3D", r"SYNCS\.PHASECHK")


def test_no_sum_of_floats_depends_on_who_comes_first(instructions):
    """No floating-point atomics: the order of every sum is fixed."""
    atomics = {
        (name, operation)
        for (_, _, name), used in instructions.items()
        for operation in used
        if re.match(r"(RED|ATOM|ATOMG|ATOMS)\b.*\.(BF16|F16|F32|F64|FTZ)", operation)
    }
    assert not atomics


def test_libraries_are_linked_statically():
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    done = subprocess.run(["readelf", "-d", extension()], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.*)\]", done.stdout)
    assert needed
    assert not [name for name in needed if re.match(r"lib(cuda|cudart|nvidia|cublas)", name)]


def test_it_loads_without_a_driver_and_sees_no_device():
    extension()
    code = "from relkernels import _cuda; print(_cuda.device_count(), _cuda.build_info()['architectures'])"
    # On machines with a driver, hiding all devices has the same effect as having no driver.
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 ")
    assert re.search("'sm_[0-9]+a?'", done.stdout)
