// Consumers that turn a tile of R into weights and add up weighted values: attention, matrix-free products,
// the gradients of attention. They share this text and differ in their Weigher:
//
//   kProducts     inner products that it needs of a pair
//   kSoftmax      its weights are exp(R - max), renormalized as the maximum grows
//   kScores       whether a bias or a soft cap may make scores of the inner products
//   kSums         further sums over the pairs of a row, at most 2: weigh adds to sums[k][i] of the weigher
//   begin(parameters, place, row0)   reads what it needs of this thread's rows, which begin with row0
//   weigh(parameters, s, slope, second, i, row, column)   unless kSoftmax: the weight of pair (row, column)
//                 from its score, the derivative of the soft cap there, and its second inner product; i is
//                 the row's number in this thread
//   write_sums(parameters, row, sums)   stores those further sums; row counts the rows of all items
//   kSeries       optional, true: parameters.series are further products of a pair (pairs.cuh), and
//   add(parameters, member, product, second, row0, column0, staged)   adds one to the second inner product
//   transform(parameters, product, staged)   turns a tile of the first one into what weigh takes as the score
//
// `staged`: a number of shared memory for each of this thread's pairs of a tile (relational.cuh).
#pragma once

#include "pairs.cuh"
#include "scored_tile.cuh"
#include "weighted_state.cuh"

namespace rk::cuda {

template <class A, int G, int ValueTiles, class Weigher>
struct Weighted {
    using Sum = typename A::Sum;
    using Factor = typename A::Factor;
    static constexpr int kProducts = Weigher::kProducts, kValueTiles = ValueTiles, kSums = Weigher::kSums;
    static_assert(kSums <= 2 && !(kSums && Weigher::kSoftmax));
    static constexpr int kRows = A::kRows * G, kStored = ValueTiles > 0 ? ValueTiles : 1;
    static constexpr bool kOrderFree = false, kMerges = true, kSeries = has_series<Weigher>;
    struct Parameters {
        WeightedOut<Sum> to;
        Scorer<Sum> scorer;
        Sum scale;
        bool split;  // each part has its own block
        typename Weigher::Parameters weigher;
    };
    static long shared_bytes(const Parameters&, int) { return 0; }

    const Parameters& q;
    const Pairs<Factor>& p;
    const Place place;
    const long row0, rows, count;
    const typename Scorer<Sum>::Item scored;
    Weigher weigher;
    Sum max_[kRows], sum_[kRows], acc_[kStored][kRows][A::kColumns];  // of this chunk
    bool joins_ = false;  // whether there is a state of chunks before it

    RK_DEVICE Weighted(const Parameters& parameters, const Pairs<Factor>& pairs, const Place& at, char*)
        : q(parameters),
          p(pairs),
          place(at),
          row0(at.first_row + 16 * G * warp_index()),
          rows(at.rows),
          count(at.columns),
          scored(parameters.scorer.of_item(pairs.lead, at.item, rows, count)) {
        weigher.template begin<A, G>(q.weigher, place, row0);
    }

    RK_DEVICE Span columns() const {
        const long end = min(place.first_row + place.block_rows, rows);
        return q.scorer.mask.band.columns_of(place.first_row + scored.shift, end + scored.shift);
    }

    RK_DEVICE void init() {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            max_[i] = Sum(-kInfinity);
            sum_[i] = 0;
#pragma unroll
            for (int b = 0; b < kStored; ++b)
#pragma unroll
                for (int j = 0; j < A::kColumns; ++j) acc_[b][i][j] = 0;
        }
        each_sum([](Sum& sum) { sum = 0; });
    }

    RK_DEVICE const Series<Factor>& series() const { return q.weigher.series; }
    RK_DEVICE Span members() const { return {0, q.weigher.series.count}; }
    RK_DEVICE void begin_series(const Sum (&)[kProducts][kRows][A::kColumns], long) const {}
    RK_DEVICE void add(int member, Sum (&product)[kRows][A::kColumns],
                       Sum (&r)[kProducts][kRows][A::kColumns], long tile, char* staged) const {
        weigher.template add<A>(q.weigher, member, product, r[1], row0, tile * kTileColumns,
                                reinterpret_cast<Sum*>(staged));
    }

    RK_DEVICE void accept(Sum (&r)[kProducts][kRows][A::kColumns], long tile, const char* values,
                          char* staged) {
        const long column0 = tile * kTileColumns;
        if constexpr (kSeries) weigher.transform(q.weigher, r[0], reinterpret_cast<Sum*>(staged));
        for_each_unrolled(r[0], [&](Sum product) { return q.scale * product; });
        bool masked =
            scored.mask != nullptr || !q.scorer.mask.band.contains(place.first_row + scored.shift,
                                                                   place.block_rows, column0, kTileColumns);
        const bool biased = Weigher::kScores && q.scorer.bias != nullptr;
        const TileOfPairs here = {row0, column0, rows, count};
        std::uint32_t allowed = kAllPairs;
        if (masked || biased || column0 + kTileColumns > count)
            allowed = pairs_in_mask<A>(q.scorer, scored, here);
        if (biased) {
            const std::uint32_t inside = allowed;
            add_bias<A>(q.scorer, scored, here, r[0], allowed);
            masked = any_in_block(allowed != inside) || masked;
        }
        weigh(r, column0, allowed);
        if constexpr (Weigher::kSoftmax) renormalize(r[0]);
        if constexpr (ValueTiles > 0) add_values(r[0], column0, masked, values, staged);
    }

    RK_DEVICE void merge(bool more) {
        if constexpr (Weigher::kSoftmax)
#pragma unroll
            for (int i = 0; i < kRows; ++i) sum_[i] = over_row(sum_[i]);
        each_sum([](Sum& sum) { sum = over_row(sum); });
        if (!q.to.state || q.split) return;
        if (joins_) add_state();
        if (!more) return;
        sync_warp();  // one thread of a row writes its max and sum, all read them
        write_state();
        sync_warp();
        joins_ = true;
        init();
    }

    RK_DEVICE void finish() {
        if (q.to.state && q.split)
            write_state();
        else
            write_result();
    }

    // A thread for each value, and one more for each row's log-sum-exp.
    static long merge_threads(const Parameters& q) { return q.to.items * q.to.rows * (q.to.width + 1); }
    RK_DEVICE static void merge_parts(const Parameters& q, const Pairs<Factor>& p, long parts) {
        constexpr int kValueWidth = kStored * kTileColumns;
        const WeightedOut<Sum>& to = q.to;
        const long index = long(block_index()) * kMergeThreads + thread_index();
        const long column = index % (to.width + 1), row = index / (to.width + 1) % to.rows;
        const long item = index / (to.width + 1) / to.rows;
        if (item >= to.items) return;
        const bool last = column == to.width;
        if constexpr (kSums > 0)
            if (last) return merge_sums(q, p, parts, item, row);
        const long block = last ? 0 : column / kValueWidth, at = last ? 0 : column % kValueWidth;
        const Sum* state = to.state + to.slot(0, block, p.value_blocks, item, row);
        Sum top = Weigher::kSoftmax ? state[to.state_width - 2] : Sum(0),
            sum = Weigher::kSoftmax ? state[to.state_width - 1] : Sum(1);
        Sum value = last ? Sum(0) : state[at];
        for (long part = 1; part < parts; ++part) {
            state = to.state + to.slot(part, block, p.value_blocks, item, row);
            if (Weigher::kSoftmax) {
                const Shares<Sum> s = merge_shares(top, state[to.state_width - 2]);
                if (!last) value = combine(s, value, state[at]);
                sum = combine(s, sum, state[to.state_width - 1]);
                top = s.max;
            } else if (!last) {
                value = value + state[at];
            }
        }
        if (!last)
            write_value(to, to.out.lead.offset(p.lead, item), row, column, value, sum);
        else if (Weigher::kSoftmax)
            write_lse(to, item, row, top, sum);
    }

   private:
    // Calls f(sum) for each of this chunk's further sums.
    template <class F>
    RK_DEVICE void each_sum(const F& f) {
        if constexpr (kSums > 0) {
#pragma unroll
            for (int k = 0; k < kSums; ++k)
#pragma unroll
                for (int i = 0; i < kRows; ++i) f(weigher.sums[k][i]);
        }
    }
    // Calls f(k, sum) for those of this thread's row i, on one of the threads that have them.
    template <class F>
    RK_DEVICE void each_sum_of(int i, const F& f) {
        if constexpr (kSums > 0) {
            if (lane_index() % A::kRowLanes) return;
#pragma unroll
            for (int k = 0; k < kSums; ++k) f(k, weigher.sums[k][i]);
        }
    }
    RK_DEVICE static void merge_sums(const Parameters& q, const Pairs<Factor>& p, long parts, long item,
                                     long row) {
        const auto state = [&](long part) {
            return q.to.state + q.to.slot(part, 0, p.value_blocks, item, row) + q.to.state_width - 2;
        };
        Sum sums[kSums];
#pragma unroll
        for (int k = 0; k < kSums; ++k) {
            sums[k] = state(0)[k];
            for (long part = 1; part < parts; ++part) sums[k] += state(part)[k];
        }
        Weigher::write_sums(q.weigher, item * q.to.rows + row, sums);
    }

    RK_DEVICE bool allows(long row, long column) const {
        return row < rows && column < count && q.scorer.allows(scored, row, column);
    }

    // Turns the scores of a tile, before the cap, into weights; for softmax they remain scores.
    RK_DEVICE void weigh(Sum (&r)[kProducts][kRows][A::kColumns], long column0, std::uint32_t allowed) {
        const bool caps = Weigher::kScores && q.scorer.cap != Sum(0);
        if (Weigher::kSoftmax && !caps && allowed == kAllPairs) return;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const long row = row0 + A::row_of(lane_index(), i);
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                const bool counts = allowed >> (i * A::kColumns + j) & 1;
                Capped<Sum> s = {r[0][i][j], Sum(1)};
                if (caps) s = capped(s.value, q.scorer.cap);
                if constexpr (Weigher::kSoftmax)
                    r[0][i][j] = counts ? s.value : Sum(-kInfinity);
                else
                    r[0][i][j] = counts ? weigher.weigh(q.weigher, s.value, s.slope, r[kProducts - 1][i][j],
                                                        i, row, column0 + A::column_of(lane_index(), j))
                                        : Sum(0);
            }
        }
    }

    RK_DEVICE static Sum over_row(Sum value) {
#pragma unroll
        for (int lanes = 1; lanes < A::kRowLanes; lanes *= 2) value += shuffle_xor(value, lanes);
        return value;
    }

    // Online softmax (Milakov & Gimelshein 2018).
    RK_DEVICE void renormalize(Sum (&r)[kRows][A::kColumns]) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            Sum top = r[i][0];
#pragma unroll
            for (int j = 1; j < A::kColumns; ++j) top = r[i][j] > top || top != top ? r[i][j] : top;
#pragma unroll
            for (int lanes = 1; lanes < A::kRowLanes; lanes *= 2) {
                const Sum other = shuffle_xor(top, lanes);
                top = other > top || top != top ? other : top;
            }
            // A NaN does not become the maximum; it reaches the sum below.
            const Sum next = top > max_[i] ? top : max_[i];
            const Sum base = next == Sum(-kInfinity) ? Sum(0) : next;
            const Sum kept = rescaling(max_[i], next);
            max_[i] = next;
            Sum sum = 0, infinite = 0;
            if (next == Sum(kInfinity))
#pragma unroll
                for (int j = 0; j < A::kColumns; ++j) infinite += r[i][j] < Sum(kInfinity) ? Sum(0) : r[i][j];
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                r[i][j] = exp(r[i][j] - base);
                sum += r[i][j];
            }
            sum_[i] = sum_[i] * kept + (next == Sum(kInfinity) ? infinite : sum);
            if constexpr (ValueTiles > 0)
#pragma unroll
                for (int b = 0; b < kStored; ++b)
#pragma unroll
                    for (int j = 0; j < A::kColumns; ++j) acc_[b][i][j] *= kept;
        }
    }

    RK_DEVICE void add_values(const Sum (&weights)[kRows][A::kColumns], long column0, bool masked,
                              const char* values, char* staged) {
        constexpr int kPitch = SharedLayout::value_pitch<A>(kStored);
        const Factor* v = reinterpret_cast<const Factor*>(values);
        Sum* w = reinterpret_cast<Sum*>(staged);
        // Forbidden pairs must be left out, not multiplied by zero, if a value is not finite.
        if (masked && any_in_block(!all_finite(v))) {
            A::template stage_weights<G>(weights, w);
            add_allowed(w, column0, v);
            return;
        }
#pragma unroll
        for (int b = 0; b < kStored; ++b)
            A::template multiply_weights<G>(acc_[b], weights, w, b == 0, v + b * kTileColumns, kPitch);
    }

    RK_DEVICE bool all_finite(const Factor* v) const {
        constexpr int kPitch = SharedLayout::value_pitch<A>(kStored);
        bool finite = true;
        for (int e = thread_index(); e < kTileColumns * kTileColumns * kStored; e += block_threads())
            finite = finite &&
                     isfinite(widen(v[e / (kTileColumns * kStored) * kPitch + e % (kTileColumns * kStored)]));
        return finite;
    }

    RK_DEVICE void add_allowed(const Sum* weights, long column0, const Factor* v) {
        constexpr int kPitch = SharedLayout::value_pitch<A>(kStored),
                      kWeightPitch = SharedLayout::staged_pitch<A>();
        const int lane = lane_index();
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const int r = A::row_of(lane, i);
            for (int k = 0; k < kTileColumns; ++k) {
                if (!allows(row0 + r, column0 + k)) continue;
                Factor rounded;
                narrow(weights[r * kWeightPitch + k], rounded);
#pragma unroll
                for (int b = 0; b < kStored; ++b)
#pragma unroll
                    for (int j = 0; j < A::kColumns; ++j)
                        acc_[b][i][j] =
                            fma(Sum(widen(rounded)),
                                Sum(widen(v[k * kPitch + b * kTileColumns + A::value_column_of(lane, j)])),
                                acc_[b][i][j]);
            }
        }
    }

    // Calls f(i, row) for those of this thread's rows that exist.
    template <class F>
    RK_DEVICE void each_row(const F& f) const {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const long row = row0 + A::row_of(lane_index(), i);
            if (row < rows) f(i, row);
        }
    }
    RK_DEVICE Sum* state_of(long row) const {
        return q.to.state + q.to.slot(q.split ? place.part : 0, place.value_block, p.value_blocks, place.item,
                                      place.row_begin + row);
    }

    // Joins the state of the chunks before to that of this one.
    RK_DEVICE void add_state() {
        each_row([&](int i, long row) {
            const Sum* state = state_of(row);
            const Sum* last = state + q.to.state_width - 2;
            const Shares<Sum> s = Weigher::kSoftmax ? merge_shares(last[0], max_[i]) : Shares<Sum>{};
            if constexpr (ValueTiles > 0)
#pragma unroll
                for (int b = 0; b < kStored; ++b)
#pragma unroll
                    for (int j = 0; j < A::kColumns; ++j) {
                        const Sum before = state[b * kTileColumns + A::value_column_of(lane_index(), j)];
                        Sum& sum = acc_[b][i][j];
                        sum = Weigher::kSoftmax ? combine(s, before, sum) : before + sum;
                    }
            if (Weigher::kSoftmax) {
                max_[i] = s.max;
                sum_[i] = combine(s, last[1], sum_[i]);
            }
            each_sum_of(i, [&](int k, Sum& sum) { sum = last[k] + sum; });
        });
    }

    RK_DEVICE void write_state() {
        each_row([&](int i, long row) {
            Sum* state = state_of(row);
            if constexpr (ValueTiles > 0)
#pragma unroll
                for (int b = 0; b < kStored; ++b)
#pragma unroll
                    for (int j = 0; j < A::kColumns; ++j)
                        state[b * kTileColumns + A::value_column_of(lane_index(), j)] = acc_[b][i][j];
            if (Weigher::kSoftmax && lane_index() % A::kRowLanes == 0) {
                state[q.to.state_width - 2] = max_[i];
                state[q.to.state_width - 1] = sum_[i];
            }
            each_sum_of(i, [&](int k, Sum sum) { state[q.to.state_width - 2 + k] = sum; });
        });
    }

    RK_DEVICE void write_result() {
        const long out = q.to.out.lead.offset(p.lead, place.item) + place.row_begin * q.to.out.row;
        each_row([&](int i, long row) {
            if constexpr (ValueTiles > 0)
#pragma unroll
                for (int b = 0; b < kStored; ++b)
#pragma unroll
                    for (int j = 0; j < A::kColumns; ++j) {
                        const long c = (long(place.value_block) * kStored + b) * kTileColumns +
                                       A::value_column_of(lane_index(), j);
                        if (c < q.to.width) write_value(q.to, out, row, c, acc_[b][i][j], sum_[i]);
                    }
            if (Weigher::kSoftmax && lane_index() % A::kRowLanes == 0 && place.value_block == 0)
                write_lse(q.to, place.item, place.row_begin + row, max_[i], sum_[i]);
            if constexpr (kSums > 0) {
                if (place.value_block) return;
                Sum sums[kSums];
                each_sum_of(i, [&](int k, Sum sum) {
                    sums[k] = sum;
                    if (k == kSums - 1)
                        Weigher::write_sums(q.weigher, place.item * q.to.rows + place.row_begin + row, sums);
                });
            }
        });
    }

    RK_DEVICE_CALL static void write_value(const WeightedOut<Sum>& to, long out, long row, long column,
                                           Sum value, Sum sum) {
        if (Weigher::kSoftmax) value = sum == Sum(0) ? Sum(0) : value / sum;
        store_element(to.out.data, to.out.dtype, out + row * to.out.row + column * to.out.column,
                      value * to.factor);
    }
    RK_DEVICE static void write_lse(const WeightedOut<Sum>& to, long item, long row, Sum top, Sum sum) {
        if (to.lse) to.lse[item * to.rows + row] = sum == Sum(0) ? Sum(-kInfinity) : top + log(sum);
    }
};

}  // namespace rk::cuda
