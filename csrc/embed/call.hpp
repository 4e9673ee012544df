// Checks of the public interface, and conversion of its views to the engine's arrays.
//
// A Call is one call of a public function. It knows the function's name and builds every message: "function:
// argument: expected ..., got ...". The first Call also chooses the instruction set.
#pragma once

#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/arrays.hpp"
#include "operations/operations.hpp"
#include "relkernels.hpp"
#include "walk/arithmetic.hpp"
#include "walk/mlp.hpp"

namespace relkernels {

template <class T>
struct Mlp<T>::Impl {
    rk::Mlp<T> packed;
    Shape widths;
};

namespace detail {

struct Access {
    template <class T>
    static const rk::Mlp<T>& packed(const Mlp<T>& mlp) {
        return mlp.impl_->packed;
    }
};

template <class T>
const rk::Mlp<T>* packed(const Mlp<T>* mlp) {
    return mlp ? &Access::packed(*mlp) : nullptr;
}

std::string text(const Shape& shape);  // "(10, 3)"

// Shape and name of an argument, for messages and broadcasting. `core` dimensions are the operation's own.
struct Named {
    const char* name;
    const Shape& shape;
    std::size_t core;
};

class Call {
   public:
    explicit Call(const char* function);

    [[noreturn]] void fail(const std::string& argument, const std::string& expected,
                           const std::string& got) const;

    // Present, with at least `ndim` dimensions (or exactly as many).
    void array(const char* name, const Shape& shape, std::size_t ndim, bool exact = false) const;
    // Rows of points: two dimensions, the last not empty.
    void points(const char* name, const Shape& shape) const;
    void shape(const char* name, const Shape& got, const Shape& expected, const char* what) const;
    // Width of the features of an array of this shape through a map.
    template <class T>
    std::int64_t width(const char* name, const Shape& shape, const char* map_name, const Mlp<T>* map) const {
        return map ? mapped(name, shape, map_name, map->widths()) : shape.back();
    }
    // Both sides of an inner product, mapped, are equally wide: that width.
    template <class T>
    std::int64_t widths(const char* x_name, const Shape& x, const Mlp<T>* phi, const char* y_name,
                        const Shape& y, const Mlp<T>* psi, bool one_map) const {
        const std::int64_t a = width(x_name, x, "phi", phi);
        const std::int64_t b = width(y_name, y, one_map ? "phi" : "psi", psi);
        if (a != b) unequal(x_name, x, a, y_name, y, b);
        return a;
    }
    Shape lead(std::initializer_list<Named> arguments) const;
    // A copy of offsets that ascend from 0 to this number of rows.
    std::vector<std::int64_t> offsets(const char* name, const View<const std::int64_t>& given,
                                      std::int64_t rows) const;
    template <class T>
    T scale(double value, const char* name = "scale") const;
    // The scale of a link: >= 0, and in full precision, for one of distances.
    template <class T>
    T scale_of(Link link, double value, Precision precision) const;
    void finite(const char* name, double value, double least, bool or_equal) const;
    // The pairs that a causal rule and a window allow.
    rk::Band band(const Window& window, bool causal, Align align, std::int64_t n, std::int64_t m) const;
    // The parameter of an activation, or its default.
    double parameter(Activation activation, const std::optional<double>& given) const;
    // The precision, if it is available for T.
    template <class T>
    Precision precision(Precision wanted) const {
        if (wanted != Precision::full && !std::is_same_v<T, float>)
            fail("precision", "full for double (bf16 is for float)", "bf16");
        return wanted;
    }

   private:
    std::int64_t mapped(const char* name, const Shape& shape, const char* map_name,
                        const Shape& widths) const;
    [[noreturn]] void unequal(const char* x_name, const Shape& x, std::int64_t width_x, const char* y_name,
                              const Shape& y, std::int64_t width_y) const;

    std::string function_;
};

// A view with one more dimension, of one element.
template <class T>
View<T> as_column(const View<T>& view) {
    Shape shape = view.shape(), strides = view.strides();
    shape.push_back(1);
    strides.push_back(1);
    return View<T>(view.data(), shape, strides);
}

// The engine's array of a view, with the given leading dimensions: broadcast ones have stride 0. Of a mask,
// core dimensions of one element are broadcast as well.
template <class T>
rk::Array<T> array(const View<T>& view, const Shape& lead, std::size_t core, const Shape& core_shape = {}) {
    rk::Array<T> a;
    if (view.absent()) return a;
    // The engine takes null for absent; an empty array may have no memory at all.
    static std::remove_const_t<T> nothing;
    a.data = view.data() ? view.data() : &nothing;
    for (std::size_t i = 0; i < lead.size() + core; ++i) {
        // The view's dimension for this one, counted from the end of both.
        const std::size_t from_end = lead.size() + core - i;
        const bool has = from_end <= view.ndim();
        const std::int64_t size = has ? view.shape()[view.ndim() - from_end] : 1;
        const std::int64_t step = has ? view.strides()[view.ndim() - from_end] : 0;
        const bool leading = i < lead.size();
        const std::int64_t full = leading ? lead[i] : core_shape.empty() ? size : core_shape[i - lead.size()];
        a.shape.push_back(long(full));
        a.stride.push_back(size > 1 ? long(step) : 0);
    }
    return a;
}

// With the view's own leading dimensions.
template <class T>
rk::Array<T> array(const View<T>& view, std::size_t core = 2) {
    return array(view, Shape(view.shape().begin(), view.shape().end() - std::ptrdiff_t(core)), core);
}

inline std::int64_t count(const Shape& shape) {
    std::int64_t n = 1;
    for (const std::int64_t size : shape) n *= size;
    return n;
}

// f(element of a, element of b) over a shape, in order; strides may be 0.
template <class A, class B, class F>
void for_each_pair(const Shape& shape, A* a, const Shape& a_step, B* b, const Shape& b_step, const F& f,
                   std::size_t dim = 0) {
    const bool last = dim + 1 == shape.size();
    for (std::int64_t i = 0; i < shape[dim]; ++i, a += a_step[dim], b += b_step[dim]) {
        if (last)
            f(*a, *b);
        else
            for_each_pair(shape, a, a_step, b, b_step, f, dim + 1);
    }
}

// An array that owns its memory, for features and their gradients.
template <class T>
class Owned {
   public:
    explicit Owned(Shape shape) : data_(std::size_t(count(shape))), view_(data_.data(), std::move(shape)) {}
    Owned(Owned&&) = default;  // no copies: the view refers to this array's elements
    const View<T>& view() const { return view_; }
    std::vector<T>& data() { return data_; }

   private:
    std::vector<T> data_;
    View<T> view_;
};

// Where an operation writes: the caller's memory or, if the engine cannot write with its strides, a temporary
// array that write_back copies from.
enum class Layout { rows, contiguous };  // unit stride in the last dimension, or in all of them

template <class T>
class Output {
   public:
    Output(const Call& call, const char* name, const View<T>& to, Layout layout) : to_(to) {
        if (count(to.shape()) == 0) return;
        std::int64_t step = 1;
        for (std::size_t i = to.ndim(); i-- > 0; step *= to.shape()[i]) {
            if (to.shape()[i] == 1) continue;
            const std::int64_t got = to.strides()[i];
            if (got == 0)
                call.fail(name, "an array without repeated elements", "strides " + text(to.strides()));
            const bool suits = layout == Layout::contiguous || i + 1 == to.ndim() ? got == step : got > 0;
            if (!suits) own_ = std::make_unique<Owned<T>>(to.shape());
        }
    }
    const View<T>& view() const { return own_ ? own_->view() : to_; }
    rk::Array<T> array(std::size_t core) const { return detail::array(view(), core); }
    void write_back() const {
        if (own_)
            for_each_pair(to_.shape(), own_->view().data(), own_->view().strides(), to_.data(), to_.strides(),
                          [](const T& from, T& into) { into = from; });
    }

   private:
    View<T> to_;
    std::unique_ptr<Owned<T>> own_;
};

// The checked arguments that attention and its relatives share.
template <class T>
struct Attended {
    const Mlp<T>*phi, *psi;
    bool one_map;
    std::int64_t n, m, width;
    Shape lead;
    rk::Array<const T> q, k, bias;
    rk::Array<const std::uint8_t> mask;
    std::vector<std::int64_t> q_offsets, k_offsets;  // of a ragged batch; else empty

    // v is absent for scores and retrieval.
    Attended(const Call& call, const View<const T>& q, const View<const T>& k, const char* k_name,
             const View<const T>& v, const Mlp<T>* phi, const Mlp<T>* psi, const Mask& mask,
             const View<const T>& bias = {}, const Ragged& ragged = {});

    // Shape of a result: leading dimensions, then these.
    Shape shape(std::initializer_list<std::int64_t> core) const;
    T scale(const Call& call, const std::optional<double>& wanted) const;

    rk::Relation<T> relation(Precision precision, T scale) const {
        return {q, k, packed(phi), packed(psi), precision, scale, segments()};
    }
    rk::Segments segments() const {
        if (q_offsets.empty()) return {};
        return {q_offsets.data(), k_offsets.data(), long(q_offsets.size()) - 1};
    }
    rk::Allowed allowed() const { return {mask, {}}; }
    rk::Scoring<T> scoring(const Call& call, const AttentionOptions& options) const;
};

// The checked arguments of relation_matvec and of its gradient.
template <class T>
struct Multiplied {
    Map<T> psi;
    bool one_map;
    T scale;
    bool single;            // v is vectors: it has fewer dimensions than y
    View<const T> columns;  // v as (..., m, c)
    Shape lead;
    std::int64_t n, m, width;

    Multiplied(const Call& call, const View<const T>& x, const View<const T>& y, const View<const T>& v,
               Map<T> phi, Map<T> psi, const MatvecOptions& options);
    // The leading dimensions and these.
    Shape shape(std::initializer_list<std::int64_t> core) const;
    Shape product() const { return single ? shape({n}) : shape({n, columns.shape().back()}); }
};

}  // namespace detail
}  // namespace relkernels
