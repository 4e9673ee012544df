// The closed sets of names, for Python to read.
#include "base/names.hpp"

#include "bindings/conversions.hpp"

namespace rk::bindings {

namespace {

template <class Row, std::size_t n>
py::tuple names_of(const Row (&rows)[n]) {
    py::tuple names(n);
    for (std::size_t i = 0; i < n; ++i) names[i] = py::str(rows[i].name);
    return names;
}

}  // namespace

void register_names(py::module_& m) {
    m.attr("LINKS") = names_of(kLinks);
    py::list of_distance;
    for (const Named<Link>& row : kLinks)
        if (is_of_distance(row.value)) of_distance.append(row.name);
    m.attr("LINKS_OF_DISTANCE") = py::tuple(of_distance);
    m.attr("LOSSES") = names_of(kLosses);
    py::dict activations;  // name -> (gain of initial weights, Lipschitz constant or None)
    for (const NamedActivation& row : kActivations)
        activations[row.name] = py::make_tuple(row.gain, row.lipschitz);
    m.attr("ACTIVATIONS") = activations;
}

}  // namespace rk::bindings
