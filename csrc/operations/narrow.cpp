// Rounds floats to 16 bits: the results of calls with 16-bit arrays.
#include <algorithm>

#include "base/arrays.hpp"
#include "operations/operations.hpp"

namespace rk {

void narrow(const float* from, long count, Storage storage, std::uint16_t* to) {
    constexpr long kBlock = 1L << 16;
    constexpr double kWork = 16;  // multiply-adds that take as long as reading and writing one float
    team_for(kWork * double(count)).for_each(ceil_div(count, kBlock), [&](long block) {
        const long first = block * kBlock;
        kernels<float>().narrow(from + first, storage, std::min(kBlock, count - first), to + first);
    });
}

}  // namespace rk
