// Each block adds up a chunk of 2,048 values. The totals of all chunks are added up the same way, and then
// added to the chunks after them.
#include "prefix_sums.cuh"

namespace rk::cuda {

namespace {

constexpr int kThreads = 256, kEach = 8, kChunk = kThreads * kEach;

// The prefix sums within each chunk, and the sum of each chunk.
RK_KERNEL(kThreads) sum_chunks(std::int64_t* values, long count, std::int64_t* totals) {
    auto* sums = reinterpret_cast<std::int64_t*>(shared_memory());
    const int t = thread_index();
    const long first = long(block_index()) * kChunk + t * kEach;
    std::int64_t before[kEach], sum = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        before[e] = sum;
        sum += first + e < count ? values[first + e] : 0;
    }
    sums[t] = sum;
    sync_block();
    // Hillis and Steele 1986: after each step, sums[t] is the sum of 2 * step threads.
    for (int step = 1; step < kThreads; step *= 2) {
        const std::int64_t more = t >= step ? sums[t - step] : 0;
        sync_block();
        sums[t] += more;
        sync_block();
    }
    const std::int64_t of_threads_before = sums[t] - sum;
#pragma unroll
    for (int e = 0; e < kEach; ++e)
        if (first + e <= count) values[first + e] = of_threads_before + before[e];
    if (t == kThreads - 1) totals[block_index()] = sums[t];
}

RK_KERNEL(kThreads) add_to_chunks(std::int64_t* values, long count, const std::int64_t* before) {
    const long first = long(block_index()) * kChunk;
    for (int e = thread_index(); e < kChunk && first + e <= count; e += kThreads)
        values[first + e] += before[block_index()];
}

}  // namespace

void prefix_sums(const Context& context, std::int64_t* values, long count) {
    const long chunks = ceil_div(count + 1, kChunk);
    std::int64_t* totals = context.take<std::int64_t>(chunks + 1);
    launch(sum_chunks, chunks, 1, kThreads, kThreads * long(sizeof(std::int64_t)), context.stream, values,
           count, totals);
    if (chunks > 1) {
        prefix_sums(context, totals, chunks);
        launch(add_to_chunks, chunks, 1, kThreads, 0, context.stream, values, count, totals);
    }
    check_launch("prefix_sums");
}

}  // namespace rk::cuda
