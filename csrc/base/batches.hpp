// Batches: the leading dimensions of an operation's arrays.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "base/arrays.hpp"
#include "base/threads.hpp"

namespace rk {

// True if every item of a batch has the same columns, so that the rows of all items can be treated as one
// matrix: the columns are then mapped and packed once. Results do not change, because the result of a row
// does not depend on the batch.
template <class T>
bool one_relation(const Array<const T>& rows, const Array<const T>& columns, const Array<T>& out) {
    return rows.ndim() > 2 && rows.batch(1) > 0 && columns.repeats() && rows.rows_continue() &&
           out.rows_continue();
}

// f(team, item) for each item of a batch, `work` multiply-adds each (threads.hpp): if there are many, or too
// little work in each, items run in parallel, one thread each; otherwise one after the other, each on all
// threads.
template <class F>
void for_each_item(long items, double work, const F& f) {
    const Team all = team_for(double(items) * work), each = team_for(work), alone(1);
    if (items >= 4 * all.size() || std::min(items, long(all.size())) > each.size()) {
        all.for_each(items, [&](long item) { f(alone, item); });
    } else {
        for (long item = 0; item < items; ++item) f(each, item);
    }
}

// The same where each item adds to its part of `sums`, if there are sums: items that share a part run one
// after the other, in order.
template <class T, class F>
void for_each_adding_item(long items, double work, const Array<T>& sums, const F& f) {
    if (sums.empty()) return for_each_item(items, work, f);
    std::map<const T*, std::vector<long>> sharing;
    for (long item = 0; item < items; ++item) sharing[sums.item(item, 2)].push_back(item);
    std::vector<std::vector<long>> groups;
    for (auto& [at, group] : sharing) groups.push_back(std::move(group));
    for_each_item(long(groups.size()), work * double(items) / double(std::max<std::size_t>(groups.size(), 1)),
                  [&](const Team& team, long g) {
                      for (const long item : groups[std::size_t(g)]) f(team, item);
                  });
}

}  // namespace rk
