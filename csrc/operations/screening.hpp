// Exact search by screening: a pair that cannot be among the k best, or above the threshold, is left out by a
// bound of its value, and the others are multiplied as they are without screening.
//
// With codes q^, k^ of y_q = u_q q and y_k = u_k k (kernels/codes.hpp),
//
//   |u_q u_k <q, k> - <q^, k^>| <= |y_q - q^| |y_k| + |q^| |y_k - k^|
//
// by Cauchy and Schwarz. The float chain that makes R differs from <q, k> by at most g |q| |k|, where g
// bounds its roundings. So if <q^, k^> + |y_q - q^| |y_k| + |q^| |y_k - k^| + g |y_q| |y_k| < u_q u_k bar, R
// is below the bar: the k-th best value of the row so far, or its threshold, which is fixed. Pairs that pass
// wait in a list of their row with their bounds. When the list is full, the best-bounded ones are multiplied,
// which raises the bar; many of the others then leave the list. Their values are those of `product`
// (kernels/table.hpp), so the result is that of a plain walk to the last bit, and only the time depends on
// the data.
//
// Work of a pair: d / 16 + d / 32 multiplications of registers of 32 bytes (AVX2) where float32 takes d / 8,
// and 4 operations for the bound. Reads: d + 16 bytes a key where float32 takes 4 d.
#pragma once

#include "operations/operations.hpp"

namespace rk {

// True if screening is expected to be faster than a plain walk. k: 0 for a threshold.
bool screening_pays(const Points<float>& rows, const Points<float>& keys, const KeyCodes& codes, long k);

// As walk_pairs in float32 with scale 1, for the consumers TopK and Above. Absent codes are made. Where the
// bounds leave too many pairs, the rest is a plain walk.
template <class Consumer>
void search_screened(const Team& team, const Points<float>& rows, const Points<float>& keys,
                     const KeyCodes& codes, const Consumer& consumer);

}  // namespace rk
