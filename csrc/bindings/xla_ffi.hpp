// XLA's foreign function interface: how a compiled program of JAX calls a function of a library.
//
// The structures that a handler needs, of major version 0. Their layout is that of `xla/ffi/api/c_api.h`,
// which jaxlib contains; it is the same in minor versions 1 (jaxlib 0.6) to 3 (jaxlib 0.10). Each structure
// begins with the size that XLA knows it to have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rk::xla {

inline constexpr int kMajor = 0, kOldestMinor = 1, kNewestMinor = 3;

enum ExtensionType : int { kMetadata = 1 };
enum Stage : int { kExecute = 3 };
enum ItemType : int { kBuffer = 1 };  // of arguments and results
enum AttributeType : int { kString = 4 };
enum class Code : int { cancelled = 1, invalid_argument = 3, resource_exhausted = 8, internal = 13 };

// The types that NumPy has too.
enum DataType : int {
    kBool = 1,
    kInt8 = 2,
    kInt16 = 3,
    kInt32 = 4,
    kInt64 = 5,
    kUint8 = 6,
    kUint16 = 7,
    kUint32 = 8,
    kUint64 = 9,
    kFloat16 = 10,
    kFloat32 = 11,
    kFloat64 = 12,
    kComplex64 = 15,
    kComplex128 = 18,
};

struct Extension {
    std::size_t struct_size;
    int type;
    Extension* next;
};

struct Version {
    std::size_t struct_size;
    Extension* extensions;
    int major, minor;
};

struct Error;

struct ErrorDescription {
    std::size_t struct_size;
    Extension* extensions;
    const char* message;  // copied by XLA
    Code code;
};

// XLA's functions; others follow.
struct Api {
    std::size_t struct_size;
    Extension* extensions;
    Version version;
    const void* internal;
    Error* (*create_error)(ErrorDescription*);
};

struct Buffer {
    std::size_t struct_size;
    Extension* extensions;
    int dtype;
    void* data;
    std::int64_t rank;
    std::int64_t* shape;  // rows first, without gaps
};

struct Items {
    std::size_t struct_size;
    Extension* extensions;
    std::int64_t count;
    int* types;
    void** items;
};

struct Text {
    const char* data;
    std::size_t size;
};

struct Attributes {
    std::size_t struct_size;
    Extension* extensions;
    std::int64_t count;
    int* types;
    Text** names;
    void** items;
};

// One call of a handler. A result that is signalled later follows, which no handler here uses.
struct CallFrame {
    std::size_t struct_size;
    Extension* extensions;
    const Api* api;
    void* context;
    int stage;
    Items arguments, results;
    Attributes attributes;
};

// What a handler reports when it is registered: a call with this extension and without arguments.
struct Metadata {
    std::size_t struct_size;
    Version version;
    std::uint32_t traits;
};

struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

inline constexpr std::size_t kMetadataSize = offsetof(Metadata, traits) + sizeof(Metadata::traits);

static_assert(sizeof(void*) != 8 || (sizeof(Buffer) == 48 && sizeof(CallFrame) == 168 && sizeof(Api) == 56 &&
                                     offsetof(CallFrame, arguments) == 40));

}  // namespace rk::xla
