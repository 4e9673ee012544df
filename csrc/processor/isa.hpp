// The choice of instruction set: made once, when the extension is loaded.
#pragma once

#include <string>
#include <vector>

namespace rk {

// Chooses the best table this processor can run, or the one that RELKERNELS_ISA names.
// Throws std::invalid_argument where the name is unknown (or empty) or the processor lacks it.
void select_isa();

const char* isa_name();
std::vector<std::string> available_isas();

// Instruction-set extensions of this processor that matter to us, as (name, present).
std::vector<std::pair<std::string, bool>> cpu_features();

}  // namespace rk
