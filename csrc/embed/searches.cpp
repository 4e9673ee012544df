// Searches in the public interface: checks, then the engine's functions of the same names.
#include <algorithm>
#include <cmath>

#include "embed/call.hpp"
#include "operations/found_pairs.hpp"
#include "operations/operations.hpp"

namespace relkernels {

using detail::array;
using detail::Attended;
using detail::Call;
using detail::Layout;
using detail::Output;

namespace {

// The engine's lists of excluded columns, ascending, made of those of the caller.
class Exclusions {
   public:
    template <class T>
    Exclusions(const Call& call, const View<const std::int64_t>& exclude, const Attended<T>& a) {
        if (exclude.absent()) return;
        call.array("exclude", exclude.shape(), 2);
        const std::int64_t e = exclude.shape().back();
        check_shape(call, exclude.shape(), a.shape({a.n, e}));
        const auto lists = array(exclude, a.lead, 2, {a.n, e});
        const long items = lists.batch(2);
        ranges_.reserve(std::size_t(2 * items * a.n));
        for (long item = 0; item < items; ++item) {
            for (std::int64_t i = 0; i < a.n; ++i) {
                const std::int64_t* const row = lists.item(item, 2) + i * lists.step(2);
                ranges_.push_back(std::int64_t(columns_.size()));
                for (std::int64_t c = 0; c < e; ++c) {
                    const std::int64_t column = row[c * lists.step(1)];
                    if (column < -1 || column >= a.m)
                        call.fail("exclude",
                                  "indices from 0 to " + std::to_string(a.m - 1) + ", or -1 for none",
                                  std::to_string(column));
                    if (column >= 0) columns_.push_back(column);
                }
                std::sort(columns_.begin() + ranges_.back(), columns_.end());
                ranges_.push_back(std::int64_t(columns_.size()));
            }
        }
        excluded_.ranges = array(View<const std::int64_t>(ranges_.data(), a.shape({a.n, 2})));
        excluded_.columns = columns_.data();
    }
    const rk::Excluded& lists() const { return excluded_; }

   private:
    static void check_shape(const Call& call, const Shape& got, const Shape& full) {
        bool fits = got.size() <= full.size();
        for (std::size_t i = 1; fits && i <= got.size(); ++i)
            fits = got[got.size() - i] == 1 || got[got.size() - i] == full[full.size() - i];
        if (!fits)
            call.fail("exclude", "a shape that broadcasts to " + detail::text(full), detail::text(got));
    }

    std::vector<std::int64_t> ranges_, columns_;
    rk::Excluded excluded_;
};

}  // namespace

template <class T>
void retrieve(In<T> q, In<T> keys, Map<T> phi, Map<T> psi, View<T> values, View<std::int64_t> indices,
              const RetrieveOptions& options) {
    const Call call("retrieve");
    const Attended<T> a(call, q, keys, "keys", {}, phi, psi, options.mask, {}, options.ragged);
    if (!options.exclude.absent() && a.segments().ragged())
        call.fail("exclude", "none with q_offsets", "shape " + detail::text(options.exclude.shape()));
    call.array("values", values.shape(), 2);
    const std::int64_t k = values.shape().back();
    call.shape("values", values.shape(), a.shape({a.n, k}), "(..., n, k)");
    if (k < 1 || k > a.m)
        call.fail("values",
                  "1 to " + std::to_string(a.m) + " in the last dimension, as keys of shape " +
                      detail::text(keys.shape()) + " allow",
                  "shape " + detail::text(values.shape()));
    call.shape("indices", indices.shape(), values.shape(), "that of values");
    const Exclusions exclusions(call, options.exclude, a);
    const Output<T> best(call, "values", values, Layout::contiguous);
    const Output<std::int64_t> where(call, "indices", indices, Layout::contiguous);
    rk::retrieve<T>(a.relation(call.precision<T>(options.precision), T(1)), {a.allowed(), exclusions.lists()},
                    best.array(2), where.array(2));
    best.write_back();
    where.write_back();
}

template <class T>
void retrieve_above(In<T> q, In<T> keys, Map<T> phi, Map<T> psi, In<T> thresholds, Pairs<T>& found,
                    const RetrieveAboveOptions& options) {
    const Call call("retrieve_above");
    const Attended<T> a(call, q, keys, "keys", {}, phi, psi, options.mask);
    call.array("thresholds", thresholds.shape(), 1);
    const Shape full = a.shape({a.n});
    bool fits = thresholds.ndim() <= full.size();
    for (std::size_t i = 1; fits && i <= thresholds.ndim(); ++i) {
        const std::int64_t size = thresholds.shape()[thresholds.ndim() - i];
        fits = size == 1 || size == full[full.size() - i];
    }
    if (!fits)
        call.fail("thresholds", "a shape that broadcasts to " + detail::text(full),
                  detail::text(thresholds.shape()));
    const auto bars = array(thresholds, a.lead, 1, {a.n});
    for (long item = 0; item < bars.batch(1); ++item)
        for (std::int64_t i = 0; i < a.n; ++i)
            if (std::isnan(bars.item(item, 1)[i * bars.step(1)])) call.fail("thresholds", "numbers", "NaN");
    if (options.limit < 1) call.fail("limit", "an integer >= 1", std::to_string(options.limit));
    const Exclusions exclusions(call, options.exclude, a);
    rk::FoundPairs<T> pairs(long(detail::count(full)), long(options.limit));
    rk::retrieve_above<T>(a.relation(call.precision<T>(options.precision), T(1)),
                          {a.allowed(), exclusions.lists()}, bars, {}, pairs);
    if (!pairs.complete())
        call.fail(
            "limit",
            "at least " + std::to_string(pairs.total()) + ", the number of pairs at or above the threshold",
            std::to_string(options.limit));
    found.offsets.resize(std::size_t(detail::count(full) + 1));
    found.indices.resize(std::size_t(pairs.total()));
    found.values.resize(std::size_t(pairs.total()));
    pairs.write(found.offsets.data(), found.indices.data(), found.values.data());
}

#define RK_INSTANTIATE(T)                                                             \
    template void retrieve(In<T>, In<T>, Map<T>, Map<T>, View<T>, View<std::int64_t>, \
                           const RetrieveOptions&);                                   \
    template void retrieve_above(In<T>, In<T>, Map<T>, Map<T>, In<T>, Pairs<T>&, const RetrieveAboveOptions&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace relkernels
