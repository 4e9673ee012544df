// R = scale <phi(x_i), psi(y_j)>, written tile by tile.
//
// Symmetric relation: only blocks on and above the diagonal are multiplied; each is then mirrored while it
// is in L2. The result equals its transpose to the last bit because R_ij and R_ji are the same chain of
// multiply-adds with the factors exchanged.
#include "operations.hpp"
#include "pairs.hpp"

namespace rk {

namespace {

template <class T>
struct Store {
    static constexpr bool kOrderFree = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    T* out;
    long head, row;  // strides

    std::size_t state_bytes(long) const { return 0; }
    void init(void*, long) const {}
    bool skip(long, long, long, long) const { return false; }
    void destination(Tile<T>& t) const {
        t.r = out + t.head * head + t.i0 * row + t.j0;
        t.ld = row;
    }
    void accept(void*, const Tile<T>&) const {}
    void merge(void*, const void*, long) const {}
    void finish(void*, long, long) const {}
};

// Rows and columns of a block of the symmetric relation: 192 x 192 floats are 144 KiB, and 192 is a multiple
// of every micro-tile's rows and panel's columns.
constexpr long kSquare = 192;

template <class T>
void symmetric(const Team& team, const Points<T>& x, T scale, long heads, T* out, long head, long row) {
    const Kernels<T>& k = kernels<T>();
    const long n = x.count, width = x.width(), depth = width / heads;
    const long blocks = ceil_div(n, kSquare);
    const auto size = [&](long b) { return std::min(kSquare, n - b * kSquare); };

    const Buffer<T> space(x.map ? n * width : 0), panels(blocks * kSquare * width);
    team.for_each(blocks, [&](long b) {
        const Points<T> f = features_in(x.sub(b * kSquare, size(b)),
                                        x.map ? space.get() + b * kSquare * width : nullptr, width);
        k.pack(f.data, f.col, f.row, width, f.count, panels.get() + b * kSquare * width, width * k.nr);
    });
    const Points<T> f = x.map ? Points<T>{space.get(), n, width, width, 1, nullptr} : x;

    team.for_each(blocks * (blocks + 1) / 2, [&](long task) {
        long a = 0, b = task;  // the task-th pair a <= b, row by row of the upper triangle
        for (; b >= blocks - a; ++a) b -= blocks - a;
        b += a;
        for (long h = 0; h < heads; ++h) {
            T* upper = out + h * head + a * kSquare * row + b * kSquare;
            T* lower = out + h * head + b * kSquare * row + a * kSquare;
            k.product(f.at(a * kSquare) + h * depth * f.col, f.row, f.col,
                      panels.get() + b * kSquare * width + h * depth * k.nr, width * k.nr, size(a), size(b),
                      depth, upper, row, scale, nullptr, false);
            if (a != b) k.transpose(upper, row, size(a), size(b), lower, row);
        }
    });
}

}  // namespace

template <class T>
void relation_matrix(const Array<const T>& x, const Array<const T>& y, const Mlp<T>* phi, const Mlp<T>* psi,
                     T scale, long heads, const Array<T>& out) {
    if (heads == 1 && !y.empty() && one_relation(x, y, out))
        return relation_matrix(x.as_matrix(), y.first_item(), phi, psi, scale, heads, out.as_matrix());
    const int core = heads > 1 ? 3 : 2;
    const long head = heads > 1 ? out.step(3) : 0;
    for_each_item(x.batch(2), [&](const Team& team, long item) {
        const Points<T> rows = points_of(x, item, phi);
        T* to = out.item(item, core);
        if (y.empty()) {
            symmetric(team, rows, scale, heads, to, head, out.step(2));
        } else {
            const std::vector<Operand<T>> columns = {{points_of(y, item, psi), Operand<T>::columns}};
            walk_pairs(team, rows, columns, scale, heads, Store<T>{to, head, out.step(2)});
        }
    });
}

#define RK_INSTANTIATE(T)                                                                      \
    template void relation_matrix(const Array<const T>&, const Array<const T>&, const Mlp<T>*, \
                                  const Mlp<T>*, T, long, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
