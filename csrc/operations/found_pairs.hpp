// The pairs that a search finds, whose number is not known in advance (operations/above.hpp).
//
// Each block of rows collects its pairs in a PairList; FoundPairs keeps the lists of all blocks and writes
// them to arrays of the right size. The lists take 16 bytes per pair (24 for double) besides the result.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "base/threads.hpp"

namespace rk {

template <class T>
struct FoundPair {
    T value;
    std::int32_t row;  // in its block
    std::int64_t column;
};

// Pairs in the order in which they were added. The list grows by pieces: no pair is moved, and at most half
// of its memory, or 64 Ki pairs, is unused.
template <class T>
class PairList {
   public:
    void add(const FoundPair<T>& pair) {
        if (pieces_.empty() || pieces_.back().size() == pieces_.back().capacity()) grow();
        pieces_.back().push_back(pair);
    }
    void append(PairList&& other) {
        pieces_.insert(pieces_.end(), std::make_move_iterator(other.pieces_.begin()),
                       std::make_move_iterator(other.pieces_.end()));
        other.clear();
    }
    void clear() { pieces_.clear(); }
    bool empty() const { return pieces_.empty(); }
    template <class F>
    void for_each(const F& f) const {
        for (const auto& piece : pieces_)
            for (const FoundPair<T>& pair : piece) f(pair);
    }

   private:
    void grow() {
        const std::size_t last = pieces_.empty() ? 32 : pieces_.back().capacity();
        std::vector<FoundPair<T>> piece;
        piece.reserve(std::clamp<std::size_t>(2 * last, 64, 65536));
        pieces_.push_back(std::move(piece));
    }

    std::vector<std::vector<FoundPair<T>>> pieces_;
};

template <class T>
class FoundPairs {
   public:
    // If there are more pairs than `limit`, they are only counted.
    FoundPairs(long rows, long limit) : rows_(rows), limit_(limit) {}

    long total() const { return total_.load(std::memory_order_relaxed); }
    bool complete() const { return total() <= limit_; }

    // ---- called by the threads of the search

    // Adds to the number of pairs; false if it exceeds the limit.
    bool count(long more) { return total_.fetch_add(more, std::memory_order_relaxed) + more <= limit_; }

    // Keeps the pairs of a block of rows. The pairs of one row may come in several lists; lists are ordered
    // by `first_column`.
    void keep(long first_row, long first_column, PairList<T>&& pairs) {
        if (pairs.empty() || !complete()) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        kept_.push_back({first_row, first_column, std::move(pairs)});
    }

    // ---- afterwards

    // offsets (rows + 1); indices and values (total()), ascending within each row. Releases the lists.
    void write(std::int64_t* offsets, std::int64_t* indices, T* values) {
        const Team team = team_for(32.0 * double(total()));
        std::fill_n(offsets, rows_ + 1, 0);
        for (const Kept& k : kept_)
            k.pairs.for_each([&](const FoundPair<T>& pair) { ++offsets[k.first_row + pair.row + 1]; });
        for (long i = 0; i < rows_; ++i) offsets[i + 1] += offsets[i];
        std::vector<std::int64_t> next(offsets, offsets + rows_);
        std::sort(kept_.begin(), kept_.end(),
                  [](const Kept& a, const Kept& b) { return a.first_column < b.first_column; });
        // Lists of equal first columns have different rows.
        for (std::size_t from = 0, to = 0; from < kept_.size(); from = to) {
            while (to < kept_.size() && kept_[to].first_column == kept_[from].first_column) ++to;
            team.for_each(long(to - from), [&](long task) {
                Kept& k = kept_[from + std::size_t(task)];
                k.pairs.for_each([&](const FoundPair<T>& pair) {
                    const std::int64_t at = next[std::size_t(k.first_row + pair.row)]++;
                    indices[at] = pair.column;
                    values[at] = pair.value;
                });
                k.pairs.clear();
            });
        }
        kept_.clear();
        constexpr long kRows = 256;
        team.for_each((rows_ + kRows - 1) / kRows, [&](long task) {
            for (long i = task * kRows; i < std::min(rows_, (task + 1) * kRows); ++i)
                sort_row(indices + offsets[i], values + offsets[i], offsets[i + 1] - offsets[i]);
        });
    }

   private:
    struct Kept {
        long first_row, first_column;
        PairList<T> pairs;
    };

    // Screening (operations/screening.hpp) does not find columns in order.
    static void sort_row(std::int64_t* indices, T* values, long n) {
        if (std::is_sorted(indices, indices + n)) return;
        std::vector<std::pair<std::int64_t, T>> row;
        row.reserve(std::size_t(n));
        for (long c = 0; c < n; ++c) row.emplace_back(indices[c], values[c]);
        std::sort(row.begin(), row.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        for (long c = 0; c < n; ++c) std::tie(indices[c], values[c]) = row[std::size_t(c)];
    }

    const long rows_, limit_;
    std::atomic<long> total_{0};
    std::mutex mutex_;
    std::vector<Kept> kept_;
};

}  // namespace rk
