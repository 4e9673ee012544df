// R = scale <phi(x_i), psi(y_j)>, written tile by tile.
//
// Symmetric relation: only blocks on and above the diagonal are multiplied; each is then mirrored while it
// is in L2. The result equals its transpose to the last bit because R_ij and R_ji are the same chain of
// multiply-adds with the factors exchanged.
//
// A result past kStreamBytes is written past the caches (Finish::stream): it would leave them before anyone
// reads it, and a line that is written whole need not be read first.
#include <cstdint>

#include "operations.hpp"
#include "pairs.hpp"

namespace rk {

namespace {

constexpr long kStreamBytes = 32L << 20;

// True where all of `out` may be streamed: it is large, and its rows begin on whole cache lines.
template <class T>
bool streams(const T* out, long rows, long row) {
    return rows * row * long(sizeof(T)) > kStreamBytes && reinterpret_cast<std::uintptr_t>(out) % 64 == 0 &&
           row * sizeof(T) % 64 == 0;
}

template <class T>
struct Store {
    static constexpr bool kOrderFree = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    T* out;
    long head, row;  // strides
    bool stream;

    std::size_t state_bytes(long) const { return 0; }
    void init(void*, long) const {}
    Span met(long, long, long, long cols) const { return {0, cols}; }
    template <class A>
    void destination(Tile<A>& t, Finish<T>& finish) const {
        t.r = out + t.head * head + t.i0 * row + t.j0;
        t.ld = row;
        finish.stream = stream;
        finish.fetch = !stream;
    }
    template <class A>
    void accept(void*, const Tile<A>&) const {}
    void merge(void*, const void*, long) const {}
    void finish(void*, long, long) const {}
};

// Rows and columns of a block of the symmetric relation: 192 x 192 floats are 144 KiB, and both sizes are
// multiples of every panel's columns. Small relations are cut finer, so that two threads have equal shares.
constexpr long kSquare = 192, kSmallSquare = 64, kSmallRows = 1024;

template <class A, class T = typename A::Value>
void symmetric(const Team& team, const Points<T>& x, T scale, long heads, T* out, long head, long row) {
    using Factor = typename A::Factor;
    const long n = x.count, width = x.width(), depth = width / heads;
    const long square = n < kSmallRows ? kSmallSquare : kSquare;
    const long blocks = ceil_div(n, square), factors = row_of_factors<A>(width, heads);
    const auto size = [&](long b) { return std::min(square, n - b * square); };
    const bool stream = streams(out, n, row);

    // Features of each block, as rows of factors and as packed columns.
    const bool own_rows = !in_place<A>(x);
    const Buffer<Factor> space(own_rows ? n * factors : 0), panels(blocks * square * factors);
    const auto rows_of = [&](long b) { return own_rows ? space.get() + b * square * factors : nullptr; };
    const auto panels_of = [&](long b, long h) {
        return panels.get() + b * square * factors + h * A::padded(depth) * A::nr();
    };
    team.for_each(blocks, [&](long b) {
        const Points<T> part = x.sub(b * square, size(b));
        Arena::Scope scratch;
        Points<T> f = part;
        if (part.map && A::kConverts) f = features_in<A>(part, scratch.take<T>(part.count * width), width);
        const Rows<A> rows = rows_in<A>(f, heads, rows_of(b));
        if constexpr (!A::kConverts)
            if (part.map) f = {rows.data, part.count, width, rows.row, rows.col, nullptr};
        for (long h = 0; h < heads; ++h)
            A::pack(f.data + h * depth * f.col, f.col, f.row, depth, f.count, panels_of(b, h),
                    factors * A::nr());
    });

    team.for_each(blocks * (blocks + 1) / 2, [&](long task) {
        long a = 0, b = task;  // the task-th pair a <= b, row by row of the upper triangle
        for (; b >= blocks - a; ++a) b -= blocks - a;
        b += a;
        const Points<T> part = x.sub(a * square, size(a));
        const Rows<A> rows =
            own_rows ? Rows<A>{rows_of(a), factors, 1, A::padded(depth)} : rows_in<A>(part, heads, nullptr);
        Arena::Scope scratch;
        for (long h = 0; h < heads; ++h) {
            T* upper = out + h * head + a * square * row + b * square;
            T* lower = out + h * head + b * square * row + a * square;
            T* tile = stream && a != b ? scratch.take<T>(square * square) : upper;
            const long ld = tile == upper ? row : square;
            A::product(rows.at(0, h), rows.row, rows.col, panels_of(b, h), factors * A::nr(), size(a),
                       size(b), depth, tile, ld,
                       {.scale = scale, .stream = stream && tile == upper, .fetch = !stream});
            if (tile != upper) kernels<T>().copy(tile, ld, size(a), size(b), upper, row, stream);
            if (a != b) kernels<T>().transpose(tile, ld, size(a), size(b), lower, row, stream);
        }
    });
}

// Many small symmetric relations of one map: the items of a group go through it as one block of rows.
template <class A, class T = typename A::Value>
void symmetric_groups(const Array<const T>& x, const Mlp<T>& phi, T scale, const Array<T>& out) {
    const long items = x.batch(2), n = x.dim(2), width = phi.outputs();
    const long group = std::max(1L, kRowBlock / n);
    const Array<const T> rows = x.as_matrix();
    Team(num_threads()).for_each(ceil_div(items, group), [&](long g) {
        const long first = g * group, count = std::min(group, items - first);
        Arena::Scope scratch;
        T* features = scratch.take<T>(count * n * width);
        phi.template forward<A>(rows.data + first * n * rows.step(2), rows.step(2), rows.step(1), count * n,
                                features, width);
        for (long i = 0; i < count; ++i)
            symmetric<A>(Team(1), Points<T>{features + i * n * width, n, width, width, 1, nullptr}, scale, 1,
                         out.item(first + i, 2), 0, out.step(2));
    });
}

}  // namespace

template <class T>
void relation_matrix(const Array<const T>& x, const Array<const T>& y, const Mlp<T>* phi, const Mlp<T>* psi,
                     Precision precision, T scale, long heads, const Array<T>& out) {
    if (heads == 1 && !y.empty() && one_relation(x, y, out))
        return relation_matrix(x.as_matrix(), y.first_item(), phi, psi, precision, scale, heads,
                               out.as_matrix());
    const int core = heads > 1 ? 3 : 2;
    const long head = heads > 1 ? out.step(3) : 0, row = out.step(2);
    with_arithmetic<T>(precision, [&]<class A>() {
        if (y.empty() && phi && heads == 1 && x.dim(2) > 0 && x.dim(2) <= kRowBlock / 2 &&
            x.batch(2) >= 4 * num_threads() && x.rows_continue())
            return symmetric_groups<A>(x, *phi, scale, out);
        for_each_item(x.batch(2), [&](const Team& team, long item) {
            const Points<T> rows = points_of(x, item, phi);
            T* to = out.item(item, core);
            if (y.empty()) return symmetric<A>(team, rows, scale, heads, to, head, row);
            const std::vector<Operand<A>> columns = {{points_of(y, item, psi), Operand<A>::columns, heads}};
            walk_pairs(team, rows, columns, scale, heads,
                       Store<T>{to, head, row, streams(to, rows.count, row)});
        });
    });
}

#define RK_INSTANTIATE(T)                                                                      \
    template void relation_matrix(const Array<const T>&, const Array<const T>&, const Mlp<T>*, \
                                  const Mlp<T>*, Precision, T, long, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
