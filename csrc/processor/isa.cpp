#include "processor/isa.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "kernels/table.hpp"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rk {

#define RK_DECLARE(isa)                          \
    namespace isa {                              \
    extern const Kernels<float> kernels_float;   \
    extern const Kernels<double> kernels_double; \
    extern const KernelsBf16 kernels_bf16;       \
    extern const CeilingKernels ceilings;        \
    }
RK_DECLARE(portable)
#if defined(RK_HAVE_X86)
RK_DECLARE(avx2)
RK_DECLARE(avx512)
namespace avx512_bf16 {
extern const KernelsBf16 kernels_bf16;
}
namespace amx {
extern const KernelsBf16 kernels_bf16;
}
#elif defined(RK_HAVE_NEON)
RK_DECLARE(neon)
#endif
#undef RK_DECLARE

namespace {

struct Isa {
    const char* name;
    bool (*present)();
    const Kernels<float>* single_precision;
    const Kernels<double>* double_precision;
    const KernelsBf16* bf16;
    const CeilingKernels* ceilings;
};

bool always() { return true; }
#if defined(RK_HAVE_X86)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
// CPUID is not enough: Linux saves tile registers only for processes that requested permission.
bool has_amx() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return has_avx512() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

// Best first.
const Isa table[] = {
#if defined(RK_HAVE_X86)
    {"amx", has_amx, &avx512::kernels_float, &avx512::kernels_double, &amx::kernels_bf16, &avx512::ceilings},
    {"avx512_bf16", has_avx512_bf16, &avx512::kernels_float, &avx512::kernels_double,
     &avx512_bf16::kernels_bf16, &avx512::ceilings},
    {"avx512", has_avx512, &avx512::kernels_float, &avx512::kernels_double, &avx512::kernels_bf16,
     &avx512::ceilings},
    {"avx2", has_avx2, &avx2::kernels_float, &avx2::kernels_double, &avx2::kernels_bf16, &avx2::ceilings},
#elif defined(RK_HAVE_NEON)
    {"neon", always, &neon::kernels_float, &neon::kernels_double, &neon::kernels_bf16, &neon::ceilings},
#endif
    {"portable", always, &portable::kernels_float, &portable::kernels_double, &portable::kernels_bf16,
     &portable::ceilings},
};

const Isa* chosen = nullptr;

std::string join(const std::vector<std::string>& names) {
    std::string all;
    for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
    return all;
}

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : table)
        if (isa.present()) names.push_back(isa.name);
    return names;
}

void select_isa() {
    const char* wanted = std::getenv("RELKERNELS_ISA");
    for (const Isa& isa : table) {
        if (!isa.present() || (wanted && std::strcmp(wanted, isa.name) != 0)) continue;
        chosen = &isa;
        return;
    }
    throw std::invalid_argument("RELKERNELS_ISA: expected one of " + join(available_isas()) +
                                " (what this processor can run), got '" + std::string(wanted).substr(0, 60) +
                                "'");
}

const char* isa_name() { return chosen->name; }

template <>
const Kernels<float>& kernels<float>() {
    return *chosen->single_precision;
}
template <>
const Kernels<double>& kernels<double>() {
    return *chosen->double_precision;
}
const CeilingKernels& ceiling_kernels() { return *chosen->ceilings; }

const KernelsBf16& kernels_bf16() { return *chosen->bf16; }

std::vector<std::pair<std::string, bool>> cpu_features() {
#if defined(RK_HAVE_X86)
    return {{"avx2", bool(__builtin_cpu_supports("avx2"))},
            {"fma", bool(__builtin_cpu_supports("fma"))},
            {"avx512f", bool(__builtin_cpu_supports("avx512f"))},
            {"avx512_bf16", bool(__builtin_cpu_supports("avx512bf16"))},
            {"amx_bf16", bool(__builtin_cpu_supports("amx-bf16"))}};
#elif defined(RK_HAVE_NEON)
    return {{"neon", true}};
#else
    return {};
#endif
}

}  // namespace rk
