// Gradients of inputs and maps from gradients of features: shared by the vector-Jacobian products and losses
// of the public interface (python/relkernels/gradients/ does the same).
#pragma once

#include "embed/call.hpp"

namespace relkernels::detail {

// Features of x through a map, or x itself; the map may be null.
template <class T>
class Features {
   public:
    Features(const View<const T>& x, const Mlp<T>* map);
    const View<const T>& view() const { return view_; }

   private:
    std::unique_ptr<Owned<T>> own_;
    View<const T> view_;
};

// The derivative with respect to the scale, of its rows' parts.
double sum(const std::vector<double>& parts);

template <class T>
void copy(const View<const T>& from, const View<T>& into) {
    if (count(into.shape()) > 0)
        for_each_pair(into.shape(), from.data(), from.strides(), into.data(), into.strides(),
                      [](const T& a, T& b) { b = a; });
}

// The sum over leading dimensions that the shape lacks or has once.
template <class T>
Owned<T> summed_to(Owned<T>& grad, const Shape& shape) {
    if (grad.view().shape() == shape) return std::move(grad);
    Owned<T> total(shape);
    const Shape& full = grad.view().shape();
    Shape steps(full.size() - shape.size(), 0);
    for (std::size_t i = 0; i < shape.size(); ++i)
        steps.push_back(shape[i] == 1 ? 0 : total.view().strides()[i]);
    if (count(full) > 0)
        for_each_pair(full, grad.view().data(), grad.view().strides(), total.view().data(), steps,
                      [](const T& from, T& into) { into += from; });
    return total;
}

// Gradients with respect to features, of both sides and with all leading dimensions, back to inputs and maps;
// leading dimensions that broadcasting added or stretched are summed. If y is absent, its part goes to
// grad_x.
template <class T>
struct Sides {
    const View<const T>&x, &y;
    const Mlp<T>*phi, *psi;  // psi resolved: never null unless phi is
    bool one_map;

    MapGradients<T> back(Owned<T>& grad_f, Owned<T>& grad_g, const View<T>& grad_x,
                         const View<T>& grad_y) const;
};

}  // namespace relkernels::detail
