// Arrays: a pointer, a shape and strides counted in elements.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "base/dims.hpp"
#include "base/storage.hpp"

namespace rk {

inline long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }
inline long ceil_div(long n, long by) { return (n + by - 1) / by; }

// Leading dimensions are a batch; the last `core` ones (2, or 3 with heads) are the operation's own.
template <class T>
struct Array {
    T* data = nullptr;
    Dims shape, stride;
    Storage storage = Storage::own;

    bool empty() const { return data == nullptr; }
    int ndim() const { return int(shape.size()); }
    // Dimension and stride counted from the end: dim(1) is the last.
    long dim(int from_end) const { return shape[shape.size() - std::size_t(from_end)]; }
    long step(int from_end) const { return stride[stride.size() - std::size_t(from_end)]; }

    long batch(int core) const {
        long count = 1;
        for (int i = 0; i < ndim() - core; ++i) count *= shape[std::size_t(i)];
        return count;
    }
    // First element of item `index` of the batch; null for an absent array.
    T* item(long index, int core) const {
        if (!data) return nullptr;
        long offset = 0;
        for (int i = ndim() - core - 1; i >= 0; --i) {
            offset += index % shape[std::size_t(i)] * stride[std::size_t(i)];
            index /= shape[std::size_t(i)];
        }
        return advanced(data, offset, storage);
    }
    // True if the leading dimensions continue the rows, so that all items are one matrix (as_matrix).
    bool rows_continue() const {
        bool known = false;
        long expected = 0;  // stride of the next dimension outwards, once known
        for (int i = ndim() - 2; i >= 0; --i) {
            const long size = shape[std::size_t(i)], step = stride[std::size_t(i)];
            if (size == 1) continue;
            if (known && step != expected) return false;
            known = true;
            expected = step * size;
        }
        return true;
    }
    // True if every item of the batch is the same memory.
    bool repeats() const {
        for (int i = 0; i + 2 < ndim(); ++i)
            if (shape[std::size_t(i)] > 1 && stride[std::size_t(i)] != 0) return false;
        return true;
    }
    // With dimensions of 1 repeated: `as` has as many dimensions.
    Array repeated(const Dims& as) const {
        Array a{data, as, stride, storage};
        for (std::size_t i = 0; i < as.size(); ++i)
            if (shape[i] == 1) a.stride[i] = 0;
        return a;
    }
    // A vector for each item as a matrix of one column.
    Array as_columns() const {
        if (shape.empty()) return *this;
        Array a = *this;
        a.shape.push_back(1);
        a.stride.push_back(0);
        return a;
    }
    Array as_matrix() const {
        long row = 0;
        for (int i = ndim() - 2; i >= 0 && row == 0; --i)
            if (shape[std::size_t(i)] > 1) row = stride[std::size_t(i)];
        return {data, {batch(1), dim(1)}, {row, step(1)}, storage};
    }
};

// Workspace shared by the threads of a call; 64-byte aligned, not initialized.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(long n)
        : data_(n > 0
                    ? static_cast<T*>(std::aligned_alloc(64, std::size_t(round_up(n * long(sizeof(T)), 64))))
                    : nullptr) {
        if (n > 0 && !data_) throw std::bad_alloc();
    }
    T* get() const { return data_.get(); }

   private:
    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace rk
