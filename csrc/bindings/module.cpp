// The extension module relkernels._core.
#include "base/threads.hpp"
#include "bindings/conversions.hpp"
#include "processor/isa.hpp"

namespace {

// Runs pending signal handlers; true where one raised, and the exception is then set.
bool signal_raised() {
    const pybind11::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

}  // namespace

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() = "Compiled kernels of relkernels. Arguments are checked by the Python functions above.";
    try {
        rk::select_isa();
        rk::threads_asked_for();
    } catch (const std::invalid_argument& error) {
        throw pybind11::import_error(error.what());
    }
    rk::interrupt_check = signal_raised;
    rk::bindings::register_system(m);
    rk::bindings::register_names(m);
    rk::bindings::register_dlpack(m);
    rk::bindings::register_mlp(m);
    rk::bindings::register_nngp(m);
    rk::bindings::register_operations(m);
    rk::bindings::register_ordinary(m);
    rk::bindings::register_tensors(m);
    rk::bindings::register_gradients(m);
    rk::bindings::register_ceilings(m);
    rk::bindings::register_xla(m);
}
