// The machine's ceilings, for benchmarks.
#include "processor/ceilings.hpp"

#include "base/threads.hpp"
#include "bindings/conversions.hpp"

namespace rk::bindings {

namespace {

std::optional<double> ceiling(const std::string& name, int threads, long bytes, double seconds) {
    std::optional<double> rate;
    without_gil([&] { rate = measure_ceiling(name, threads, bytes, seconds); });
    return rate;
}

}  // namespace

void register_ceilings(py::module_& m) {
    m.def("measure_ceiling", &ceiling, py::arg("name"), py::arg("threads"), py::arg("bytes"),
          py::arg("seconds"),
          "Best rate of fma_float32, fma_float64, bf16_dot (operations a second), read, write or stream "
          "(bytes a second, over a buffer of so many); None where this processor lacks it.");
}

}  // namespace rk::bindings
