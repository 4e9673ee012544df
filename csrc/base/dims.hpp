// The shape or the strides of an array, without memory from the heap: calls on a few rows take microseconds,
// and make dozens of arrays.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <stdexcept>

namespace rk {

class Dims {
   public:
    // NumPy's limit of 64, heads, and a vector's column.
    static constexpr std::size_t kMost = 66;

    Dims() = default;
    Dims(std::initializer_list<long> values) { assign(values.begin(), values.end()); }
    template <std::forward_iterator It>
    Dims(It first, It last) {
        assign(first, last);
    }
    Dims(const Dims& other) { assign(other.begin(), other.end()); }
    Dims& operator=(const Dims& other) {
        if (this != &other) assign(other.begin(), other.end());
        return *this;
    }

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    long operator[](std::size_t i) const { return values_[i]; }
    long& operator[](std::size_t i) { return values_[i]; }
    long& back() { return values_[size_ - 1]; }
    const long* begin() const { return values_.data(); }
    const long* end() const { return values_.data() + size_; }
    bool operator==(const Dims& other) const {
        return std::equal(begin(), end(), other.begin(), other.end());
    }

    void push_back(long value) {
        if (size_ == kMost) throw std::invalid_argument("arrays may have at most 64 dimensions");
        values_[size_++] = value;
    }

   private:
    template <class It>
    void assign(It first, It last) {
        size_ = 0;
        for (; first != last; ++first) push_back(*first);
    }

    std::size_t size_ = 0;
    std::array<long, kMost> values_;  // the first size_ are initialized
};

}  // namespace rk
