# relkernels_core: the engine, a static library that the Python extension and the C++ package are built on.

add_library(relkernels_core STATIC)
add_library(relkernels::core ALIAS relkernels_core)
target_sources(
  relkernels_core
  PRIVATE csrc/operations/attention.cpp
          csrc/operations/attention_scores.cpp
          csrc/operations/attention_vjp.cpp
          csrc/processor/ceilings.cpp
          csrc/operations/feature_map.cpp
          csrc/operations/feature_map_training.cpp
          csrc/operations/feature_map_vjp.cpp
          csrc/processor/isa.cpp
          csrc/walk/mlp.cpp
          csrc/operations/nngp_kernel.cpp
          csrc/operations/nngp_points.cpp
          csrc/operations/random_features.cpp
          csrc/operations/relation_loss.cpp
          csrc/operations/relation_matrix.cpp
          csrc/operations/relation_matrix_vjp.cpp
          csrc/operations/relation_matvec.cpp
          csrc/operations/retrieve.cpp
          csrc/operations/screening.cpp
          csrc/operations/sparse_feature_map.cpp
          csrc/operations/sparse_feature_map_vjp.cpp
          csrc/base/threads.cpp)
target_include_directories(
  relkernels_core
  PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
  PRIVATE csrc)
# A switch that lacks a member of a closed set (base/names.hpp) is an error.
target_compile_options(relkernels_core PRIVATE -O2 -Wall -Wextra -Werror=switch)
target_link_libraries(relkernels_core PUBLIC Threads::Threads)

# Kernels: one text, one object library per instruction set. Contraction is off, so that a product and a
# sum are fused only where the source says fma(); link-time optimization stays off, so that no code
# crosses from one instruction set to another.
function(relkernels_isa name sources)
  add_library(relkernels_${name} OBJECT ${sources})
  target_include_directories(relkernels_${name} PRIVATE csrc include)
  target_compile_options(relkernels_${name} PRIVATE -Wall -Wextra -Werror=switch -O3 -ffp-contract=off -fno-math-errno
                                                    -fno-trapping-math ${ARGN})
  set_target_properties(relkernels_${name} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
  target_sources(relkernels_core PRIVATE $<TARGET_OBJECTS:relkernels_${name}>)
endfunction()

set(tables csrc/kernels/table.cpp csrc/kernels/table_bf16.cpp)
relkernels_isa(portable "${tables}")
# On macOS the architectures asked for count, not that of the machine that compiles.
set(processor "${CMAKE_SYSTEM_PROCESSOR}")
if(APPLE AND CMAKE_OSX_ARCHITECTURES)
  set(processor "${CMAKE_OSX_ARCHITECTURES}")
endif()
if(processor MATCHES "^(x86_64|AMD64|amd64)$")
  target_compile_definitions(relkernels_core PRIVATE RK_HAVE_X86)
  # PREFETCHW needs no check: where it does nothing it is still no error.
  set(avx2 -mavx2 -mfma -mf16c -mbmi2 -mprfchw)
  # Named flags rather than -march=native, which is wrong on virtual machines that mask CPUID.
  relkernels_isa(avx2 "${tables}" -DRK_ISA_AVX2 ${avx2})
  set(avx512 ${avx2} -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512)
  relkernels_isa(avx512 "${tables}" -DRK_ISA_AVX512 ${avx512})
  relkernels_isa(avx512_bf16 csrc/kernels/table_bf16.cpp -DRK_ISA_AVX512_BF16 ${avx512} -mavx512bf16)
  relkernels_isa(amx csrc/kernels/table_bf16.cpp -DRK_ISA_AMX ${avx512} -mamx-tile -mamx-bf16)
elseif(processor MATCHES "^(aarch64|arm64|ARM64)$")
  # NEON is part of every such processor: no flag selects it. GCC's scheduler, which runs before registers are
  # allocated on this processor only, would move loads up until accumulators of the micro-kernel are spilled.
  target_compile_definitions(relkernels_core PRIVATE RK_HAVE_NEON)
  relkernels_isa(neon "${tables}" -DRK_ISA_NEON $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
endif()
