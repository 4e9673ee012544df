#include "embed/call.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "base/threads.hpp"
#include "processor/isa.hpp"

namespace relkernels::detail {

std::string text(const Shape& shape) {
    std::string all;
    for (const std::int64_t n : shape) all += (all.empty() ? "" : ", ") + std::to_string(n);
    return "(" + all + (shape.size() == 1 ? ",)" : ")");
}

Call::Call(const char* function) : function_(function) {
    // Where the environment is wrong, every call throws: a function's static is made anew after an exception.
    static const bool ready = [] {
        rk::select_isa();
        rk::threads_asked_for();
        return true;
    }();
    (void)ready;
}

void Call::fail(const std::string& argument, const std::string& expected, const std::string& got) const {
    throw std::invalid_argument(function_ + ": " + argument + ": expected " + expected + ", got " + got);
}

void Call::array(const char* name, const Shape& shape, std::size_t ndim, bool exact) const {
    if (shape.empty()) fail(name, "an array", "none");
    if (shape.size() < ndim || (exact && shape.size() != ndim))
        fail(name, (exact ? "" : "at least ") + std::to_string(ndim) + " dimensions", "shape " + text(shape));
}

void Call::points(const char* name, const Shape& shape) const {
    array(name, shape, 2);
    if (shape.back() == 0)
        fail(name, "rows of at least one feature (last dimension > 0)", "shape " + text(shape));
}

void Call::shape(const char* name, const Shape& got, const Shape& expected, const char* what) const {
    if (got != expected)
        fail(name, "shape " + text(expected) + ", " + what, got.empty() ? "none" : "shape " + text(got));
}

std::int64_t Call::mapped(const char* name, const Shape& shape, const char* map_name,
                          const Shape& widths) const {
    if (shape.back() != widths.front())
        fail(name,
             "rows of " + std::to_string(widths.front()) + " features, the input of " + map_name +
                 " (widths " + text(widths) + ")",
             "shape " + text(shape));
    return widths.back();
}

void Call::unequal(const char* x_name, const Shape& x, std::int64_t width_x, const char* y_name,
                   const Shape& y, std::int64_t width_y) const {
    fail(y_name,
         std::string("features as wide as those of ") + x_name + ", " + std::to_string(width_x) + " (from " +
             x_name + " of shape " + text(x) + ")",
         std::to_string(width_y) + " (from " + y_name + " of shape " + text(y) + ")");
}

Shape Call::lead(std::initializer_list<Named> arguments) const {
    Shape all;
    for (const Named& a : arguments) {
        if (a.shape.size() <= a.core) continue;
        const std::size_t own = a.shape.size() - a.core;
        if (own > all.size()) all.insert(all.begin(), own - all.size(), 1);
        for (std::size_t i = 0; i < own; ++i) {
            std::int64_t& size = all[all.size() - own + i];
            const std::int64_t here = a.shape[i];
            if (size == 1) size = here;
            if (here == 1 || here == size) continue;
            std::string shapes;
            for (const Named& b : arguments)
                if (!b.shape.empty())
                    shapes +=
                        (shapes.empty() ? "" : ", ") + std::string(b.name) + " of shape " + text(b.shape);
            fail(arguments.begin()->name, "leading dimensions that broadcast together", shapes);
        }
    }
    return all;
}

std::vector<std::int64_t> Call::offsets(const char* name, const View<const std::int64_t>& given,
                                        std::int64_t rows) const {
    array(name, given.shape(), 1, true);
    std::vector<std::int64_t> all;
    for (std::int64_t i = 0; i < given.shape()[0]; ++i) {
        all.push_back(given.data()[i * given.strides()[0]]);
        if (i > 0 && all[std::size_t(i)] < all[std::size_t(i) - 1])
            fail(name, "offsets that do not decrease",
                 std::to_string(all[std::size_t(i) - 1]) + " and then " + std::to_string(all.back()));
    }
    if (all.empty()) fail(name, "b + 1 offsets for b segments", "none");
    if (all.front() != 0) fail(name, "0 as the first offset", std::to_string(all.front()));
    if (all.back() != rows)
        fail(name, std::to_string(rows) + " as the last offset, the number of rows",
             std::to_string(all.back()));
    return all;
}

void Call::finite(const char* name, double value, double least, bool or_equal) const {
    if (std::isfinite(value) && (or_equal ? value >= least : value > least)) return;
    fail(name, std::string("a finite number ") + (or_equal ? ">= " : "> ") + std::to_string(long(least)),
         std::to_string(value));
}

double Call::parameter(Activation activation, const std::optional<double>& given) const {
    if (activation == Activation::leaky_relu) {
        if (given && !std::isfinite(*given)) fail("parameter", "a finite slope", std::to_string(*given));
        return given.value_or(0.01);
    }
    if (activation == Activation::relu_power) {
        if (!given) fail("parameter", "the exponent of relu_power", "none");
        finite("parameter", *given, 0, false);
        return *given;
    }
    if (given) fail("parameter", "none (for leaky_relu and relu_power)", std::to_string(*given));
    return 0;
}

rk::Band Call::band(const Window& window, bool causal, Align align, std::int64_t n, std::int64_t m) const {
    const long shift = align == Align::lower_right ? long(m - n) : 0;
    rk::Band band;
    for (const auto& [name, limit] : {std::pair("window.left", window.left), {"window.right", window.right}})
        if (limit && *limit < 0) fail(name, "a number >= 0", std::to_string(*limit));
    const auto bounded = [](std::int64_t limit) { return std::min(long(limit), rk::Band::kNoLimit / 2); };
    if (window.left) band.least = shift - bounded(*window.left);
    if (window.right) band.greatest = shift + bounded(*window.right);
    if (causal) band.greatest = shift;
    return band;
}

template <class T>
T Call::scale(double value, const char* name) const {
    if (!std::isfinite(value)) fail(name, "a finite number", std::to_string(value));
    if (std::abs(value) > double(std::numeric_limits<T>::max()))
        fail(name, "a number that float can hold", std::to_string(value));
    return T(value);
}
template float Call::scale<float>(double, const char*) const;
template double Call::scale<double>(double, const char*) const;

template <class T>
T Call::scale_of(Link link, double value, Precision precision) const {
    if (!rk::is_member(link)) fail("link", "one of the enumeration", std::to_string(int(link)));
    if (rk::is_of_distance(link)) {
        if (value < 0) fail("scale", "a number >= 0 with a link of distances", std::to_string(value));
        if (precision != Precision::full) fail("precision", "full with a link of distances", "bf16");
    }
    return scale<T>(value);
}
template float Call::scale_of<float>(Link, double, Precision) const;
template double Call::scale_of<double>(Link, double, Precision) const;

template <class T>
Attended<T>::Attended(const Call& call, const View<const T>& q, const View<const T>& k, const char* k_name,
                      const View<const T>& v, const Mlp<T>* phi, const Mlp<T>* psi, const Mask& mask,
                      const View<const T>& bias, const Ragged& ragged)
    : phi(phi), psi(psi ? psi : phi), one_map(!psi || psi == phi) {
    call.points("q", q.shape());
    call.points(k_name, k.shape());
    width = call.widths("q", q.shape(), phi, k_name, k.shape(), this->psi, one_map);
    n = q.shape()[q.ndim() - 2];
    m = k.shape()[k.ndim() - 2];
    if (!v.absent()) {
        call.array("v", v.shape(), 2);
        if (v.shape()[v.ndim() - 2] != m)
            call.fail("v", std::to_string(m) + " rows, one for each row of k " + text(k.shape()),
                      "shape " + text(v.shape()));
    }
    if (!ragged.q_offsets.absent() || !ragged.k_offsets.absent()) {
        q_offsets = call.offsets("q_offsets", ragged.q_offsets, n);
        k_offsets = call.offsets("k_offsets", ragged.k_offsets, m);
        if (k_offsets.size() != q_offsets.size())
            call.fail("k_offsets", std::to_string(q_offsets.size()) + " offsets, as many as q_offsets",
                      std::to_string(k_offsets.size()));
        if (!mask.absent()) call.fail("mask", "none with q_offsets", "shape " + text(mask.shape()));
        if (!bias.absent()) call.fail("bias", "none with q_offsets", "shape " + text(bias.shape()));
    }
    const Shape pairs = {n, m};
    const auto for_pairs = [&](const char* name, const Shape& shape) {
        for (std::size_t from_end = 1; from_end <= std::min<std::size_t>(shape.size(), 2); ++from_end) {
            const std::int64_t got = shape[shape.size() - from_end];
            if (got != 1 && got != pairs[2 - from_end])
                call.fail(
                    name,
                    "a shape that broadcasts to (..., " + std::to_string(n) + ", " + std::to_string(m) + ")",
                    "shape " + text(shape));
        }
    };
    for_pairs("mask", mask.shape());
    for_pairs("bias", bias.shape());
    lead = call.lead({{"q", q.shape(), 2},
                      {k_name, k.shape(), 2},
                      {"v", v.shape(), 2},
                      {"mask", mask.shape(), 2},
                      {"bias", bias.shape(), 2}});
    this->q = array(q, lead, 2);
    this->k = array(k, lead, 2);
    this->mask = array(mask, lead, 2, pairs);
    this->bias = array(bias, lead, 2, pairs);
}

template <class T>
Shape Attended<T>::shape(std::initializer_list<std::int64_t> core) const {
    Shape all = lead;
    all.insert(all.end(), core);
    return all;
}

template <class T>
rk::Scoring<T> Attended<T>::scoring(const Call& call, const AttentionOptions& options) const {
    // In a ragged batch the engine shifts the band by the difference of each segment's own numbers of rows.
    const bool from_last = options.align == Align::lower_right, ragged = !q_offsets.empty();
    const rk::Band band =
        call.band(options.window, options.causal, ragged ? Align::upper_left : options.align, n, m);
    const double cap = options.softcap.value_or(0);
    if (options.softcap && !(cap > 0 && std::isfinite(cap)))
        call.fail("softcap", "a finite number > 0", std::to_string(cap));
    if (cap != 0 && (T(cap) < std::numeric_limits<T>::min() || std::isinf(T(cap))))
        call.fail("softcap", "a number that float can hold", std::to_string(cap));
    return {{mask, band, from_last && ragged}, T(cap), bias};
}

template <class T>
T Attended<T>::scale(const Call& call, const std::optional<double>& wanted) const {
    return wanted ? call.scale<T>(*wanted) : T(1 / std::sqrt(double(width)));
}

template struct Attended<float>;
template struct Attended<double>;

template <class T>
Multiplied<T>::Multiplied(const Call& call, const View<const T>& x, const View<const T>& y,
                          const View<const T>& v, Map<T> phi, Map<T> of_y, const MatvecOptions& options)
    : psi(of_y ? of_y : phi), one_map(psi == phi) {
    call.points("x", x.shape());
    call.points("y", y.shape());
    width = call.widths("x", x.shape(), phi, "y", y.shape(), psi, one_map);
    scale = call.scale_of<T>(options.link, options.scale, options.precision);
    call.array("v", v.shape(), 1);
    n = x.shape()[x.ndim() - 2];
    m = y.shape()[y.ndim() - 2];
    single = v.ndim() < y.ndim();
    columns = single ? as_column(v) : v;
    if (columns.shape()[columns.ndim() - 2] != m) {
        const std::string rows = std::to_string(m);
        call.fail("v",
                  "shape (..., " + rows + "), or (..., " + rows +
                      ", c) with as many dimensions as y of shape " + text(y.shape()),
                  "shape " + text(v.shape()));
    }
    lead = call.lead({{"x", x.shape(), 2}, {"y", y.shape(), 2}, {"v", columns.shape(), 2}});
}

template <class T>
Shape Multiplied<T>::shape(std::initializer_list<std::int64_t> core) const {
    Shape s = lead;
    s.insert(s.end(), core);
    return s;
}

template struct Multiplied<float>;
template struct Multiplied<double>;

}  // namespace relkernels::detail
