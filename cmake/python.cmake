# The extension module relkernels._core: the bindings over relkernels_core.

find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 3 CONFIG REQUIRED)

pybind11_add_module(
  _core MODULE NO_EXTRAS
  csrc/bindings/module.cpp
  csrc/bindings/register_ceilings.cpp
  csrc/bindings/register_dlpack.cpp
  csrc/bindings/register_gradients.cpp
  csrc/bindings/register_mlp.cpp
  csrc/bindings/register_names.cpp
  csrc/bindings/register_nngp.cpp
  csrc/bindings/register_operations.cpp
  csrc/bindings/register_ordinary.cpp
  csrc/bindings/register_system.cpp
  csrc/bindings/register_tensors.cpp
  csrc/bindings/register_xla.cpp)
# One translation unit: each alone would compile pybind11's templates again, which is most of its time.
set_target_properties(_core PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
target_include_directories(_core PRIVATE csrc)
target_link_libraries(_core PRIVATE relkernels_core)
target_compile_options(_core PRIVATE -O2 -Wall -Wextra)
target_compile_definitions(
  _core
  PRIVATE RK_VERSION="${RELKERNELS_VERSION}"
          RK_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
          RK_FLAGS="${CMAKE_BUILD_TYPE} ${CMAKE_CXX_FLAGS}")
install(TARGETS _core DESTINATION relkernels)

set(RELKERNELS_CUDA AUTO CACHE STRING "The CUDA engine: ON, OFF, or AUTO (where there are an NVIDIA driver and nvcc)")
add_subdirectory(cuda)
