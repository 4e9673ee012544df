// R = link(scale <phi(x_i), psi(y_j)>), written tile by tile; the link is applied to a strip while it is in
// L1.
//
// Symmetric relation: only blocks on and above the diagonal are multiplied; each is then mirrored while it
// is in L2. The result equals its transpose to the last bit because R_ij and R_ji are the same chain of
// multiply-adds with the factors exchanged.
//
// Where the instruction set gains by it, a large result bypasses the caches (Finish::stream): most of it
// would be evicted before anyone reads it, and a line that is written whole need not be read first.
#include <cstdint>

#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

// True where all of `out` may be streamed: it is large, and its rows begin on whole cache lines.
template <class T>
bool streams(const T* out, long rows, long row) {
    return rows * row * long(sizeof(T)) > kernels<T>().stream_bytes &&
           reinterpret_cast<std::uintptr_t>(out) % 64 == 0 && row * sizeof(T) % 64 == 0;
}

template <class T>
struct Store {
    static constexpr bool kOrderFree = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    Link link;
    T* out;
    long head, row;  // strides
    bool stream;

    struct State {};
    State make(Space&, long) const { return {}; }
    void init(State&, long) const {}
    Span met(long, long, long, long cols) const { return {0, cols}; }
    template <class A>
    void destination(Tile<A>& t, Finish<T>& finish) const {
        t.r = out + t.head * head + t.i0 * row + t.j0;
        t.ld = row;
        finish.distances = is_of_distance(link);
        finish.stream = stream;
        finish.fetch = !stream;
    }
    template <class A>
    void accept(State&, const Tile<A>& t) const {
        kernels<T>().link(link, t.r, t.ld, t.rows, t.cols);
    }
    void merge(State&, const State&, long) const {}
    void finish(State&, long, long) const {}
};

// Rows and columns of a block of the symmetric relation: 192 x 192 floats are 144 KiB, and both sizes are
// multiples of every panel's columns. Blocks on the diagonal, and small relations, so that two threads have
// equal shares, are cut finer; so are the rows that go through the map at a time.
constexpr long kSquare = 192, kSmallSquare = 64, kSmallRows = 1024, kMapRows = 96;

// Rows of the result that begin a multiple of this many bytes apart compete for a few sets of the caches. A
// block that will be mirrored is then computed in scratch memory (n = 2,048, large pages: 2.2 instead of 3.5
// ms).
constexpr long kConflict = 2048;

template <class A, class T = typename A::Value>
void symmetric(const Team& team, const Points<T>& x, Link link, T scale, long heads, T* out, long head,
               long row) {
    using Factor = typename A::Factor;
    const long n = x.count, width = x.width(), depth = width / heads;
    const long factors = row_of_factors<A>(width, heads);
    const bool stream = streams(out, n, row);

    // Features of all points, as rows of factors and as packed columns.
    const bool own_rows = !factors_are_points<A>(x);
    const Buffer<Factor> space(own_rows ? n * factors : 0), panels(round_up(n, A::nr()) * factors);
    const long part_rows = n < kSmallRows ? kSmallSquare / 2 : kMapRows;
    team.for_each(ceil_div(n, part_rows), [&](long p) {
        const long first = p * part_rows;
        const Points<T> part = x.sub(first, std::min(part_rows, n - first));
        Arena::Scope scratch;
        Points<T> f = part;
        const bool made = !part.are_features();
        if (made && A::kConverts) f = features_in<A>(part, scratch.take<T>(part.count * width), width);
        const Rows<A> rows = rows_in<A>(f, heads, own_rows ? space.get() + first * factors : nullptr);
        if constexpr (!A::kConverts)
            if (made) f = {rows.data, part.count, width, rows.row, rows.col};
        for (long h = 0; h < heads; ++h)
            A::pack(f.data + h * depth * f.col, f.col, f.row, depth, f.count,
                    panels.get() + first * factors + h * A::padded(depth) * A::nr(), factors * A::nr());
    });

    // Rows from i on against columns from j on, none left of the diagonal; columns past the rows are
    // mirrored.
    const auto rectangle = [&](long i, long rows, long j, long cols) {
        const Rows<A> f = own_rows ? Rows<A>{space.get() + i * factors, factors, 1, A::padded(depth)}
                                   : rows_in<A>(x.sub(i, rows), heads, nullptr);
        const long kept = std::max(0L, i + rows - j);  // columns that are rows here too
        const bool aside = kept == 0 && (stream || row * long(sizeof(T)) % kConflict == 0);
        Arena::Scope scratch;
        T* space_of_tile = aside ? scratch.take<T>(rows * cols) : nullptr;
        for (long h = 0; h < heads; ++h) {
            T* upper = out + h * head + i * row + j;
            T* tile = aside ? space_of_tile : upper;
            const long ld = aside ? cols : row;
            A::product(f.at(0, h), f.row, f.col, panels.get() + j * factors + h * A::padded(depth) * A::nr(),
                       factors * A::nr(), rows, cols, depth, tile, ld,
                       {.scale = scale, .distances = is_of_distance(link), .fetch = !aside});
            kernels<T>().link(link, tile, ld, rows, cols);
            if (aside) kernels<T>().copy(tile, ld, rows, cols, upper, row, stream);
            kernels<T>().transpose(tile + kept, ld, rows, cols - kept, out + h * head + (j + kept) * row + i,
                                   row, aside && stream);
        }
    };
    const long square = n < kSmallRows ? kSmallSquare : kSquare, blocks = ceil_div(n, square);
    team.for_each(blocks * (blocks + 1) / 2, [&](long task) {
        long a = 0, b = task;  // the task-th pair a <= b, row by row of the upper triangle
        for (; b >= blocks - a; ++a) b -= blocks - a;
        b += a;
        const long i = a * square, j = b * square, end = std::min(j + square, n);
        if (a != b) return rectangle(i, square, j, end - j);
        for (long k = i; k < end; k += kSmallSquare)
            rectangle(k, std::min(kSmallSquare, end - k), k, end - k);
    });
}

// Many small symmetric relations of one map: the items of a group go through it as one block of rows.
template <class A, class T = typename A::Value>
void symmetric_groups(const Team& team, const Array<const T>& x, const Mlp<T>& phi, Link link, T scale,
                      const Array<T>& out) {
    const long items = x.batch(2), n = x.dim(2), width = phi.outputs();
    const long group = std::max(1L, kRowBlock / n);
    const Points<T> rows = points_of(x.as_matrix(), 0, &phi);
    team.for_each(ceil_div(items, group), [&](long g) {
        const long first = g * group, count = std::min(group, items - first);
        Arena::Scope scratch;
        T* features = scratch.take<T>(count * n * width);
        features_in<A>(rows.sub(first * n, count * n), features, width);
        for (long i = 0; i < count; ++i)
            symmetric<A>(Team(1), Points<T>{features + i * n * width, n, width, width, 1, nullptr}, link,
                         scale, 1, out.item(first + i, 2), 0, out.step(2));
    });
}

}  // namespace

template <class T>
void relation_matrix(const Relation<T>& r, Link link, long heads, const Array<T>& out) {
    const Array<const T>& x = r.rows;
    const bool is_symmetric = r.columns.empty();
    const int core = heads > 1 ? 3 : 2;
    const long head = heads > 1 ? out.step(3) : 0, row = out.step(2);
    const double work = r.work(link == Link::identity ? 1 : kWorkOfExp);
    const Team team = team_for(double(x.batch(2)) * work);
    with_arithmetic<T>(precision_of(link, r.precision), [&]<class A>() {
        if (is_symmetric && r.phi && heads == 1 && x.dim(2) > 0 && x.dim(2) <= kRowBlock / 2 &&
            x.batch(2) >= 4 * team.size() && x.rows_continue())
            return symmetric_groups<A>(team, x, *r.phi, link, r.scale, out);
        if (is_symmetric)
            return for_each_item(x.batch(2), work, [&](const Team& team, long item) {
                symmetric<A>(team, points_of(x, item, r.phi), link, r.scale, heads, out.item(item, core),
                             head, row);
            });
        Groups groups(r.segments, r.columns);
        if (heads == 1) groups.join(x, out);
        const auto work_of = [&](long group) {
            return r.work_of(groups, group, link == Link::identity ? 1 : kWorkOfExp);
        };
        for_each_item(groups.count(), work_of, [&](const Team& team, long group) {
            const Array<const T> rows = groups.rows(x, group);
            const Array<T> to = groups.rows(out, group);
            std::vector<Member<T, Store<T>>> members;
            for (long i = 0; i < rows.batch(2); ++i) {
                T* first = to.item(i, core);
                const bool past_caches = link == Link::identity && streams(first, rows.dim(2), to.step(2));
                members.push_back({points_of(rows, i, r.phi), {link, first, head, to.step(2), past_caches}});
            }
            const std::vector<Operand<A>> columns = {
                {points_of(groups.columns(r.columns, group), 0, r.psi), Operand<A>::columns, heads}};
            walk_pairs<A>(team, members, columns, r.scale, heads);
        });
    });
}

#define RK_INSTANTIATE(T) template void relation_matrix(const Relation<T>&, Link, long, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
