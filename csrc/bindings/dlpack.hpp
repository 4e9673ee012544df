// DLPack: how libraries hand each other tensors without a copy (https://dmlc.github.io/dlpack/latest/).
//
// The structures that a consumer needs, of versions 1.x and of the unversioned protocol before them. A
// capsule holds a managed tensor. The consumer renames it to "used_..." and must then call the deleter.
// Since version 1.3 a library may also hand out a table of C functions (ExchangeApi), which read its tensors
// in some 50 ns, where a capsule takes a microsecond.
#pragma once

#include <cstdint>

namespace rk::dlpack {

inline constexpr std::uint32_t kMajor = 1;
inline constexpr std::uint64_t kReadOnly = 1, kCopied = 2;  // flags

enum DeviceType : std::int32_t { kCpu = 1, kCudaHost = 3, kRocmHost = 11 };
enum TypeCode : std::uint8_t { kInt, kUint, kFloat, kOpaque, kBfloat, kComplex, kBool };

struct Device {
    std::int32_t type, id;
};

struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null: compact, last dimension fastest
    std::uint64_t byte_offset;
};

struct Managed {
    static constexpr const char *kName = "dltensor", *kUsedName = "used_dltensor";
    Tensor tensor;
    void* context;
    void (*deleter)(Managed*);
};

struct ManagedVersioned {
    static constexpr const char *kName = "dltensor_versioned", *kUsedName = "used_dltensor_versioned";
    std::uint32_t major, minor;
    void* context;
    void (*deleter)(ManagedVersioned*);
    std::uint64_t flags;
    Tensor tensor;
};

// What the attribute `__dlpack_c_exchange_api__` of a class of tensors has in a capsule.
struct ExchangeApi {
    static constexpr const char* kName = "dlpack_exchange_api";
    std::uint32_t major, minor;
    ExchangeApi* previous;  // an older table, or null
    // Makes a tensor of the type, shape and device of a prototype; an error is told to the function.
    int (*allocate)(Tensor* prototype, ManagedVersioned** to, void* context,
                    void (*tell)(void* context, const char* kind, const char* message));
    void* export_managed;  // not used here
    // Makes a Python object of a managed tensor, which it takes over; -1 with Python's exception set.
    int (*import_managed)(ManagedVersioned* taken, void** to);
    // Describes a tensor of exactly that class, for as long as its owner keeps it; -1, with Python's
    // exception set, if that is not possible. May be null.
    int (*describe)(void* tensor, Tensor* to);
    void* current_stream;  // not used here
};

}  // namespace rk::dlpack
