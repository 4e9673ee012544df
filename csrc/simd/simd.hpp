// SIMD vocabulary of the kernels: one text, compiled once per instruction set.
//
// V<T> holds kLanes<T> values of float or double in one hardware register; I<T> holds signed integers
// as wide as T, and is also the type of a mask (all bits set where true). Arithmetic, comparison,
// bitwise operators and the choice `mask ? a : b` are the vector extensions of GCC and Clang, so they
// are written as for scalars. The few operations that the extensions lack (fused multiply-add, masked
// access, bit masks) are functions in one file for each instruction set, the same functions in each:
// avx512.hpp, avx2.hpp, neon.hpp and generic.hpp.
//
// Invariants
// - Everything lives in namespace RK_ISA and is force-inlined: an object compiled for one instruction
//   set must not define a weak symbol that the linker could pick for another (ARCHITECTURE.md).
// - No operation reads or writes memory outside of its lanes.
// - Contraction is off (-ffp-contract=off): a product and a sum are fused only by fma(). The portable build
//   has no fused multiply-add on any processor: fma() rounds twice there.
#pragma once

#include "simd/vectors.hpp"
#if defined(RK_ISA_AVX512)
#include "simd/avx512.hpp"
#elif defined(RK_ISA_AVX2)
#include "simd/avx2.hpp"
#elif defined(RK_ISA_NEON)
#include "simd/neon.hpp"
#else
#include "simd/generic.hpp"
#endif

namespace rk::RK_ISA {

RK_INLINE Vf abs(Vf a) { return (Vf)((If)a & 0x7fffffff); }
RK_INLINE Vd abs(Vd a) { return (Vd)((Id)a & 0x7fffffffffffffff); }
RK_INLINE Vf copysign(Vf magnitude, Vf sign) {
    return (Vf)(((If)magnitude & 0x7fffffff) | ((If)sign & (std::int32_t)0x80000000));
}
RK_INLINE Vd copysign(Vd magnitude, Vd sign) {
    return (Vd)(((Id)magnitude & 0x7fffffffffffffff) | ((Id)sign & (std::int64_t)0x8000000000000000ull));
}

// The type of a comparison is the compiler's own; Clang converts it to either I<T>, so M stands for it.
template <class M>
RK_INLINE bool any(M mask) {
    if constexpr (sizeof mask[0] == sizeof(float))
        return bits((If)mask) != 0;
    else
        return bits((Id)mask) != 0;
}
template <class M>
RK_INLINE bool all(M mask) {
    return !any(~mask);
}

}  // namespace rk::RK_ISA
