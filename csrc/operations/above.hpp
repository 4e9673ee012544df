// All pairs with R_ij at or above a threshold of their row, as a consumer of a walk over pairs
// (walk/pairs.hpp). The state of a block of rows is a list of its pairs, in the order of columns.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "operations/found_pairs.hpp"
#include "walk/masks.hpp"
#include "walk/pairs.hpp"

namespace rk {

// The bar that a row's values must exceed to be at or above a threshold. For -infinity it is NaN, since no
// number is <= NaN.
template <class T>
T bar_of(T threshold) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    return threshold == -kInfinity ? std::numeric_limits<T>::quiet_NaN()
                                   : std::nextafter(threshold, -kInfinity);
}

template <class T>
struct Above {
    static constexpr bool kOrderFree = true;  // merge appends; the walk keeps the order of columns
    static constexpr bool kFixedBar = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    const T* bars;  // one for each row of the item
    Searched searched;
    FoundPairs<T>* found;
    long first_of_item;  // the item's first row among those of the batch
    // Where the walk begins in the item.
    long first_row = 0, first_column = 0;

    struct State {
        PairList<T> pairs;
    };
    State make(Space&, long) const { return {}; }
    void init(State& s, long) const { s.pairs.clear(); }
    Span met(long, long, long, long cols) const { return {0, cols}; }
    template <class A>
    void destination(Tile<A>&, Finish<T>&) const {}

    // Adds a pair unless it is NaN or below the threshold; returns whether it did.
    bool take(State& s, long i, long r, T value, long column) const {
        if (value != value || value <= bars[i] || !searched.allows(i, column)) return false;
        s.pairs.add({value, std::int32_t(r), column});
        return true;
    }
    void counted(State& s, long more) const {
        if (more > 0 && !found->count(more)) s.pairs.clear();
    }

    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        std::int32_t columns[kTileColumns];
        long more = 0;
        for (long r = 0; r < t.rows; ++r) {
            const long i = first_row + t.i0 + r;
            const T* row = t.r + r * t.ld;
            const long passed = kernels<T>().candidates(row, t.cols, bars[i], columns);
            for (long c = 0; c < passed; ++c)
                more += take(s, i, t.first + r, row[columns[c]], first_column + t.j0 + columns[c]);
        }
        counted(s, more);
    }
    void merge(State& a, State& b, long) const { a.pairs.append(std::move(b.pairs)); }
    void finish(State& s, long i0, long) const {
        found->keep(first_of_item + first_row + i0, first_column, std::move(s.pairs));
        s.pairs.clear();
    }

    // ---- for screening (operations/screening.hpp)

    Above from(long row, long column) const {
        Above rest = *this;
        rest.first_row = row;
        rest.first_column = column;
        return rest;
    }
    long warm_up_pairs() const { return 0; }
    T bar(const State&, long i, long) const { return bars[i]; }
    void offer(State& s, long i, long r, T value, long column) const {
        counted(s, take(s, i, r, value, column));
    }
};

}  // namespace rk
