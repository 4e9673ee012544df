// The k largest R_ij of each row with their columns, R never written.
//
// Order: larger values first, equal ones by lower column, NaN below every number. It is a total order of
// (value, column), so partial results merge exactly whatever the order: state of a row is a binary heap of
// its k best with the worst on top, whose value is the bar that the next candidates must pass.
#include <algorithm>
#include <cmath>
#include <limits>

#include "masks.hpp"
#include "operations.hpp"

namespace rk {

namespace {

template <class T>
struct Hit {
    T value;
    std::int64_t column;
};

template <class T>
bool better(const Hit<T>& a, const Hit<T>& b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && a.value != b.value) return a.value > b.value;
    return a.column < b.column;
}

template <class T>
struct TopK {
    static constexpr bool kOrderFree = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    long k;
    T* values;
    std::int64_t* indices;
    Mask mask;

    struct State {
        long* found;   // of each row
        Hit<T>* hits;  // k of each row
    };
    static State view(void* state, long rows) {
        long* found = static_cast<long*>(state);
        return {found, reinterpret_cast<Hit<T>*>(found + round_up(rows, 2))};
    }

    std::size_t state_bytes(long rows) const {
        return std::size_t(round_up(rows, 2)) * sizeof(long) + std::size_t(rows * k) * sizeof(Hit<T>);
    }
    void init(void* state, long rows) const { std::fill_n(view(state, rows).found, rows, 0); }
    bool skip(long, long, long, long) const { return false; }
    void destination(Tile<T>&) const {}

    // NaN (every column passes) until k are found.
    T bar(const State& s, long i) const {
        return s.found[i] < k ? std::numeric_limits<T>::quiet_NaN() : s.hits[i * k].value;
    }
    void offer(const State& s, long i, const Hit<T>& hit) const {
        Hit<T>* heap = s.hits + i * k;
        if (s.found[i] < k) {
            heap[s.found[i]++] = hit;
            std::push_heap(heap, heap + s.found[i], better<T>);
        } else if (better(hit, heap[0])) {
            std::pop_heap(heap, heap + k, better<T>);
            heap[k - 1] = hit;
            std::push_heap(heap, heap + k, better<T>);
        }
    }

    void accept(void* state, const Tile<T>& t) const {
        // The bar rises within a tile: candidates are asked for kPiece columns at a time.
        constexpr long kPiece = 64;
        const State s = view(state, t.rows);
        std::int32_t columns[kPiece];
        for (long i = 0; i < t.rows; ++i)
            for (long j = 0; j < t.cols; j += kPiece) {
                const T* r = t.r + i * t.ld + j;
                const long found =
                    kernels<T>().candidates(r, std::min(kPiece, t.cols - j), bar(s, i), columns);
                for (long c = 0; c < found; ++c) {
                    const long column = t.j0 + j + columns[c];
                    if (mask.allows(t.i0 + i, column)) offer(s, i, {r[columns[c]], column});
                }
            }
    }
    void merge(void* into, const void* from, long rows) const {
        const State a = view(into, rows), b = view(const_cast<void*>(from), rows);
        for (long i = 0; i < rows; ++i)
            for (long c = 0; c < b.found[i]; ++c) offer(a, i, b.hits[i * k + c]);
    }
    void finish(void* state, long i0, long rows) const {
        const State s = view(state, rows);
        for (long i = 0; i < rows; ++i) {
            Hit<T>* hits = s.hits + i * k;
            std::sort_heap(hits, hits + s.found[i], better<T>);
            for (long c = 0; c < k; ++c) {
                const bool found = c < s.found[i];
                values[(i0 + i) * k + c] = found ? hits[c].value : -std::numeric_limits<T>::infinity();
                indices[(i0 + i) * k + c] = found ? hits[c].column : -1;
            }
        }
    }
};

}  // namespace

template <class T>
void retrieve(const Array<const T>& q, const Array<const T>& keys, const Mlp<T>* phi, const Mlp<T>* psi,
              const Array<const std::uint8_t>& mask, const Array<T>& values,
              const Array<std::int64_t>& indices) {
    if (mask.empty() && one_relation(q, keys, values))
        return retrieve(q.as_matrix(), keys.first_item(), phi, psi, mask, values.as_matrix(),
                        indices.as_matrix());
    for_each_item(q.batch(2), [&](const Team& team, long item) {
        const std::vector<Operand<T>> columns = {{points_of(keys, item, psi), Operand<T>::columns}};
        walk_pairs(
            team, points_of(q, item, phi), columns, T(1), 1,
            TopK<T>{values.dim(1), values.item(item, 2), indices.item(item, 2), mask_of(mask, false, item)});
    });
}

#define RK_INSTANTIATE(T)                                                                              \
    template void retrieve(const Array<const T>&, const Array<const T>&, const Mlp<T>*, const Mlp<T>*, \
                           const Array<const std::uint8_t>&, const Array<T>&, const Array<std::int64_t>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
