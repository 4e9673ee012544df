// The common arguments of the searches, converted to the pairs of a walk. Mirrors Searchable of
// csrc/walk/masks.hpp.
#pragma once

#include "operations.hpp"

namespace rk::cuda {

// Queries and keys, with the leading dimensions of all arrays fused, those of the mask, of the excluded
// ranges and of the outputs included.
template <class A>
struct Search {
    using F = typename A::Factor;
    Pairs<F> pairs;
    Searched searched;

    // `more`: strides of the leading dimensions of further arrays; `fused` receives them.
    Search(const Context& context, const Relation<A>& relation, const Searchable& searchable,
           const std::vector<std::vector<long>>& more, std::vector<LeadStride>& fused)
        : searched(searched_of(searchable)) {
        const Factors<F> f = features<A>(context, relation.rows, relation.phi),
                         g = features<A>(context, relation.columns, relation.psi);
        const std::vector<long> shape = leading(relation.rows.shape, 2);
        std::vector<std::vector<long>> strides = {f.lead, g.lead,
                                                  leading_strides(searchable.allowed.mask, shape),
                                                  leading_strides(searchable.excluded.ranges, shape)};
        strides.insert(strides.end(), more.begin(), more.end());
        pairs.rows[0] = f.rows;
        pairs.columns[0] = g.rows;
        pairs.segments = table_of(context, relation.segments);
        pairs.lead = collapse(shape, strides, fused);
        pairs.rows[0].lead = fused[0];
        pairs.columns[0].lead = fused[1];
        searched.mask.lead = fused[2];
        searched.ranges_lead = fused[3];
        fused.erase(fused.begin(), fused.begin() + 4);
    }
};

}  // namespace rk::cuda
