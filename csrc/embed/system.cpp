// Threads, instruction set, version.
#include "base/threads.hpp"
#include "embed/call.hpp"
#include "processor/isa.hpp"

namespace relkernels {

int num_threads() { return rk::num_threads(); }

void set_num_threads(int n) {
    if (n < 1 || n > rk::kMostThreads)
        detail::Call("set_num_threads")
            .fail("n", "1 to " + std::to_string(rk::kMostThreads) + " threads", std::to_string(n));
    rk::set_num_threads(n);
}

std::string instruction_set() {
    const detail::Call chooses("instruction_set");
    return rk::isa_name();
}

std::vector<std::string> instruction_sets() { return rk::available_isas(); }

std::string version() { return RK_VERSION; }

}  // namespace relkernels
