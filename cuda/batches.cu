#include "batches.hpp"

namespace rk::cuda {

namespace {

// The arguments of a kernel have 4 KiB.
constexpr int kOffsetsPerLaunch = 480;

struct Offsets {
    std::int64_t* to;
    int count;
    std::int64_t values[kOffsetsPerLaunch];
};

RK_KERNEL(kOffsetsPerLaunch)
write_offsets(const __grid_constant__ Offsets offsets) {
    if (thread_index() < offsets.count) offsets.to[thread_index()] = offsets.values[thread_index()];
}

const std::int64_t* on_device(const Context& context, const std::int64_t* values, long count) {
    std::int64_t* const to = context.take<std::int64_t>(count);
    for (long first = 0; first < count; first += kOffsetsPerLaunch) {
        Offsets offsets{to + first, int(std::min<long>(count - first, kOffsetsPerLaunch)), {}};
        std::copy_n(values + first, offsets.count, offsets.values);
        launch(write_offsets, 1, 1, kOffsetsPerLaunch, 0, context.stream, offsets);
    }
    return to;
}

long largest(const std::int64_t* offsets, long count) {
    long most = 0;
    for (long s = 0; s < count; ++s) most = std::max<long>(most, offsets[s + 1] - offsets[s]);
    return most;
}

}  // namespace

SegmentTable table_of(const Context& context, const Segments& s) {
    if (!s.ragged()) return {};
    return {on_device(context, s.rows, s.count + 1), on_device(context, s.columns, s.count + 1), s.count,
            largest(s.rows, s.count), largest(s.columns, s.count)};
}

}  // namespace rk::cuda
