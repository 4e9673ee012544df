// Batches: the leading dimensions of an operation's arrays, and the segments of ragged ones.
#pragma once

#include <algorithm>
#include <bitset>
#include <concepts>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "base/arrays.hpp"
#include "base/threads.hpp"

namespace rk {

// A ragged batch: segment s has the rows rows[s] .. rows[s + 1] - 1 of matrices that hold the rows of all
// segments one after the other, and columns likewise. Without offsets, a matrix is one segment.
struct Segments {
    const std::int64_t *rows = nullptr, *columns = nullptr;  // count + 1 offsets each
    long count = 1;

    bool ragged() const { return rows != nullptr; }
};

// The items of a batch in groups that share their columns, so that columns are mapped and packed once per
// group: the items along leading dimensions in which all arrays of columns have stride 0 (or size 1), for
// each segment. Results do not change, because the result of a row does not depend on the batch.
class Groups {
   public:
    // `columns`: the arrays, of equal leading dimensions, with a row per column of the relation.
    template <class... Arrays>
    explicit Groups(const Segments& segments, const Arrays&... columns) : segments_(segments) {
        const auto& shape = std::get<0>(std::tie(columns...)).shape;
        lead_ = shape.size() - 2;
        for (std::size_t i = 0; i < lead_; ++i) {
            shared_[i] = shape[i] == 1 || ((columns.stride[i] == 0) && ...);
            (shared_[i] ? members_ : items_) *= shape[i];
        }
    }

    // None if the batch is empty: its columns may have no memory.
    long count() const { return members_ == 0 ? 0 : items_ * segments_.count; }

    // Joins the members of each group to one matrix if the rows of all these arrays, absent ones aside,
    // continue from member to member.
    template <class... Arrays>
    void join(const Arrays&... arrays) {
        joined_ = !segments_.ragged() && count() > 0 &&
                  ((arrays.shape.empty() || rows(arrays, 0).rows_continue()) && ...);
    }
    // Keeps them joined only if the rows of these arrays, absent ones aside, also have no gaps between them.
    template <class... Arrays>
    void join_only_if_gapless(const Arrays&... arrays) {
        const auto gapless = [&](const auto& a) {
            if (a.shape.empty()) return true;
            const auto matrix = rows(a, 0);
            return matrix.dim(2) <= 1 || matrix.step(2) == matrix.dim(1);
        };
        joined_ = joined_ && (gapless(arrays) && ...);
    }
    bool joined() const { return joined_; }

    // How many rows (of all members together) and columns a group has.
    template <class T>
    std::pair<long, long> sizes(const Array<T>& rows, const Array<T>& columns, long group) const {
        return {members_ * range(segments_.rows, group, rows.dim(2)).count,
                range(segments_.columns, group, columns.dim(2)).count};
    }

    // The rows of a group in an array with a row per row of the relation: (members..., n, d).
    template <class T>
    Array<T> rows(const Array<T>& a, long group) const {
        if (a.shape.empty()) return a;
        const Range range = this->range(segments_.rows, group, a.dim(2));
        Array<T> part{first(a, group, range), {}, {}, a.storage};
        for (std::size_t i = 0; i < a.shape.size(); ++i)
            if (i >= lead_ || shared_[i]) {
                part.shape.push_back(a.shape[i]);
                part.stride.push_back(a.stride[i]);
            }
        part.shape[part.shape.size() - 2] = range.count;
        return joined_ ? part.as_matrix() : part;
    }
    // The columns of a group in an array with a row per column: (m, d).
    template <class T>
    Array<T> columns(const Array<T>& a, long group) const {
        const Range range = this->range(segments_.columns, group, a.dim(2));
        return {first(a, group, range), {range.count, a.dim(1)}, {a.step(2), a.step(1)}, a.storage};
    }

   private:
    struct Range {
        long begin, count;
    };
    Range range(const std::int64_t* offsets, long group, long all) const {
        if (!offsets) return {0, all};
        const std::int64_t* at = offsets + group % segments_.count;
        return {long(at[0]), long(at[1] - at[0])};
    }
    template <class T>
    T* first(const Array<T>& a, long group, const Range& range) const {
        if (!a.data) return nullptr;
        long offset = range.begin * a.step(2), item = group / segments_.count;
        for (std::size_t i = lead_; i-- > 0;)
            if (!shared_[i]) {
                offset += item % a.shape[i] * a.stride[i];
                item /= a.shape[i];
            }
        return advanced(a.data, offset, a.storage);
    }

    const Segments segments_;
    std::size_t lead_;                 // how many leading dimensions there are,
    std::bitset<Dims::kMost> shared_;  // and along which of them the columns are the same
    long items_ = 1;                   // without those dimensions
    long members_ = 1;
    bool joined_ = false;
};

// f(team, item) for each item of a batch, work(item) multiply-adds each (threads.hpp). Items that are a large
// part of the work, and enough for several threads, are processed one after the other, each on all threads;
// the others in parallel, one thread each.
template <class Work, class F>
    requires std::invocable<Work, long>
void for_each_item(long items, const Work& work, const F& f) {
    if (items == 1) return f(team_for(work(0)), 0);
    double total = 0;
    for (long item = 0; item < items; ++item) total += work(item);
    const Team all = team_for(total), alone(1);
    const auto is_large = [&](long item) {
        const double own = work(item);
        return 4 * all.size() * own > total && team_for(own).size() >= std::min(items, long(all.size()));
    };
    std::vector<long> small;
    for (long item = 0; item < items; ++item) {
        if (is_large(item))
            f(team_for(work(item)), item);
        else
            small.push_back(item);
    }
    all.for_each(long(small.size()), [&](long task) { f(alone, small[std::size_t(task)]); });
}

template <class F>
void for_each_item(long items, double work, const F& f) {
    for_each_item(items, [&](long) { return work; }, f);
}

// The same where items add to sums: those with the same `part(item)` run one after the other, in order.
template <class Work, class Part, class F>
void for_each_adding_item(long items, const Work& work, const Part& part, const F& f) {
    std::map<std::decay_t<decltype(part(0))>, std::vector<long>> sharing;
    for (long item = 0; item < items; ++item) sharing[part(item)].push_back(item);
    std::vector<std::vector<long>> turns;
    for (auto& [at, turn] : sharing) turns.push_back(std::move(turn));
    const auto of_turn = [&](long t) {
        double sum = 0;
        for (const long item : turns[std::size_t(t)]) sum += work(item);
        return sum;
    };
    for_each_item(long(turns.size()), of_turn, [&](const Team& team, long t) {
        for (const long item : turns[std::size_t(t)]) f(team, item);
    });
}

}  // namespace rk
