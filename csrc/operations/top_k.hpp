// The k best hits of each row, as a consumer of a walk over pairs (walk/pairs.hpp).
//
// Order: larger values first, equal ones by lower column, NaN below every number. It is a total order of
// (value, column), so partial results merge exactly in any order. State of a row: a list of hits. When it is
// full, the k best are kept, and the worst of those is the bar that later candidates must pass. A full list
// costs one selection (linear time) for the hits since the last one, so a hit costs a few nanoseconds where a
// heap of k would take log k steps.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <limits>

#include "walk/masks.hpp"
#include "walk/pairs.hpp"

namespace rk {

// An integer in the order of values: 0 and -0 are equal, NaN is below every number.
inline std::int32_t rank_of(float value) {
    const auto bits = std::bit_cast<std::int32_t>(value + 0.0f);
    const std::int32_t rank = bits ^ (bits >> 31 & std::numeric_limits<std::int32_t>::max());
    return value != value ? std::numeric_limits<std::int32_t>::min() : rank;
}
inline std::int64_t rank_of(double value) {
    const auto bits = std::bit_cast<std::int64_t>(value + 0.0);
    const std::int64_t rank = bits ^ (bits >> 63 & std::numeric_limits<std::int64_t>::max());
    return value != value ? std::numeric_limits<std::int64_t>::min() : rank;
}

template <class T>
struct Hit {
    T value;
    decltype(rank_of(T())) rank;
    std::int64_t column;

    Hit() = default;
    Hit(T value, std::int64_t column) : value(value), rank(rank_of(value)), column(column) {}
    // Without a branch: which of two hits is better is not predictable.
    friend bool operator>(const Hit& a, const Hit& b) { return b < a; }
    friend bool operator<(const Hit& a, const Hit& b) {
        return (a.rank > b.rank) | ((a.rank == b.rank) & (a.column < b.column));
    }
};

// Quickselect: moves the k smallest of n items to the front, the greatest of them to place k - 1. A step of
// its partition has no branch, where std::nth_element mispredicts every second one. Items differ.
template <class Item>
void select_first(Item* items, long n, long k) {
    long from = 0, to = n;  // where the item of place k - 1 is
    for (int round = 0; to - from > 8; ++round) {
        if (round == 48) return std::nth_element(items + from, items + k - 1, items + to);
        Item &first = items[from], &middle = items[from + (to - from) / 2], &last = items[to - 1];
        if (middle < first) std::swap(middle, first);
        if (last < middle) std::swap(last, middle);
        if (middle < first) std::swap(middle, first);
        std::swap(middle, last);
        const Item pivot = last;
        long at = from;
        for (long i = from; i < to - 1; ++i) {
            const Item item = items[i];
            items[i] = items[at];
            items[at] = item;
            at += item < pivot;
        }
        std::swap(items[at], items[to - 1]);
        if (at == k - 1) return;
        (at < k - 1 ? from : to) = at < k - 1 ? at + 1 : at;
    }
    std::sort(items + from, items + to);
}

template <class T>
struct TopK {
    static constexpr bool kOrderFree = true;
    static constexpr bool kFixedBar = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    long k;
    T* values;
    std::int64_t* indices;
    Searched searched;
    // The first pair of the walk: a walk may take some of the rows, and columns after those that others took,
    // whose k best are then in `values` and `indices` (resumes).
    long first_row = 0, first_column = 0;
    bool resumes = false;

    struct State {
        long* found;   // of each row
        T* bar;        // of each row: NaN (every column passes) until k were found
        Hit<T>* hits;  // capacity() of each row
    };
    // Room for as many new hits as are kept, within limits.
    long capacity() const { return k + std::min(k, 1024L) + 16; }
    State make(Space& space, long rows) const {
        return {space.take<long>(rows), space.take<T>(rows), space.take<Hit<T>>(rows * capacity())};
    }
    void init(State& s, long rows) const {
        std::fill_n(s.found, rows, 0);
        std::fill_n(s.bar, rows, std::numeric_limits<T>::quiet_NaN());
    }
    Span met(long i0, long rows, long j0, long cols) const {
        return band_columns(searched.mask.band, first_row + i0, rows, first_column + j0, cols);
    }
    template <class A>
    void destination(Tile<A>&, Finish<T>&) const {}

    // Keeps the k best hits of a row, and raises its bar to the worst of them.
    void select(const State& s, long i) const {
        Hit<T>* hits = s.hits + i * capacity();
        if (s.found[i] < k) return;
        // Keys that get better and better come in order, and std::nth_element predicts its branches then.
        Hit<T>*const first_new = hits + k, *const end = hits + s.found[i];
        if (end - first_new >= 8 && std::is_sorted(first_new, end, std::greater{}))
            std::nth_element(hits, first_new - 1, end);
        else
            select_first(hits, s.found[i], k);
        s.found[i] = k;
        s.bar[i] = hits[k - 1].value;
    }
    void offer(const State& s, long i, const Hit<T>& hit) const {
        s.hits[i * capacity() + s.found[i]++] = hit;
        if (s.found[i] == capacity()) select(s, i);
    }

    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        std::int32_t columns[kTileColumns];
        for (long r = 0; r < t.rows; ++r) {
            const long i = t.first + r;
            const T* row = t.r + r * t.ld;
            // Until there is a bar every column passes, and the first bar is low: it is raised after the
            // first columns, then each time their number has doubled.
            const bool fresh = s.bar[i] != s.bar[i];
            for (long from = 0, to; from < t.cols; from = to) {
                to = fresh ? std::min(t.cols, from + std::max(from, round_up(k, 16))) : t.cols;
                const long found = kernels<T>().candidates(row + from, to - from, s.bar[i], columns);
                for (long c = 0; c < found; ++c) {
                    const long j = from + columns[c], column = first_column + t.j0 + j;
                    if (!(row[j] <= s.bar[i]) && searched.allows(first_row + t.i0 + r, column))
                        offer(s, i, Hit<T>(row[j], column));
                }
                if (fresh) select(s, i);
            }
        }
    }
    void merge(State& a, const State& b, long rows) const {
        for (long i = 0; i < rows; ++i)
            for (long c = 0; c < b.found[i]; ++c) offer(a, i, b.hits[i * capacity() + c]);
    }
    void finish(State& s, long i0, long rows) const {
        for (long i = 0; i < rows; ++i) {
            Hit<T>* hits = s.hits + i * capacity();
            T* value = values + (first_row + i0 + i) * k;
            std::int64_t* index = indices + (first_row + i0 + i) * k;
            if (resumes)
                for (long c = 0; c < k && index[c] >= 0; ++c) offer(s, i, Hit<T>(value[c], index[c]));
            select(s, i);
            std::sort(hits, hits + s.found[i]);
            for (long c = 0; c < k; ++c) {
                const bool found = c < s.found[i];
                value[c] = found ? hits[c].value : -std::numeric_limits<T>::infinity();
                index[c] = found ? hits[c].column : -1;
            }
        }
    }

    // ---- for screening (operations/screening.hpp)

    TopK from(long row, long column) const {
        TopK rest = *this;
        rest.first_row = row;
        rest.first_column = column;
        rest.resumes = column > 0;
        return rest;
    }
    long warm_up_pairs() const { return k; }
    T bar(const State& s, long, long r) const { return s.bar[r]; }
    void offer(const State& s, long, long r, T value, long column) const {
        if (!(value < s.bar[r])) offer(s, r, Hit<T>(value, column));
    }
};

}  // namespace rk
