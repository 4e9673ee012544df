// What calls that are taken whole have in common: those on NumPy arrays (register_ordinary.cpp), and those of
// operators on tensors (register_tensors.cpp).
#pragma once

#include <exception>
#include <new>

#include "bindings/conversions.hpp"

namespace rk::bindings {

// Multiply-adds, some 10 microseconds, up to which it is not worth releasing the GIL.
inline constexpr double kHoldsGil = 250e3;

inline PyObject* not_ordinary() { return Py_NewRef(Py_NotImplemented); }

template <class F>
void run_kernel(double work, const F& f) {
    if (work > kHoldsGil)
        without_gil(f);
    else
        f();
}

// What f returns; null, with Python's exception set, if it throws.
template <class F>
PyObject* raising_in_python(const F& f) {
    try {
        return f();
    } catch (const Interrupted&) {  // the signal's exception is set
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const std::bad_alloc& error) {
        PyErr_SetString(PyExc_MemoryError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

}  // namespace rk::bindings
