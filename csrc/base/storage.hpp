// How floats are stored: in their own type, or in 16 bits, from which they are widened a tile at a time.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace rk {

// bfloat16: the upper half of a float.
using bfloat16 = std::uint16_t;

inline float to_float(bfloat16 x) { return std::bit_cast<float>(std::uint32_t(x) << 16); }

// IEEE 754 binary16. A separate type, so that the kernels' loads can be overloaded.
struct float16 {
    std::uint16_t bits;
};

// own: elements are of the array's type T. The others hold a float in 16 bits; pointers to them are passed
// as const float*, are moved by advanced(), and are read only by kernels that take a Storage.
enum class Storage { own, float16, bfloat16 };

// Pointer to the element n after the one at p.
template <class T>
T* advanced(T* p, long n, Storage storage) {
    if (storage == Storage::own) return p + n;
    using Bits = std::conditional_t<std::is_const_v<T>, const std::uint16_t, std::uint16_t>;
    return reinterpret_cast<T*>(reinterpret_cast<Bits*>(p) + n);
}

}  // namespace rk
