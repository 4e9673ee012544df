// Threads: a pool of our own (OpenMP's hangs in a forked child), scratch memory for each thread, and
// the way for a user to stop a long call.
//
// No result depends on what happens here: kernels fix the order of every sum by the shape of the data
// (walk/pairs.hpp), and a loop may run on any number of threads or on the caller's alone.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace rk {

// Thrown out of a call that the user stopped. The bindings set interrupt_check, which returns true when
// a signal handler has raised; it is called on the caller's thread only, every 50 ms or so.
struct Interrupted {};
extern bool (*interrupt_check)();

// Call between pieces of work of a millisecond or so; throws Interrupted where the call is to end.
void poll();

constexpr int kMostThreads = 4096;

// Threads that calls use. Before the first set_num_threads: what RELKERNELS_NUM_THREADS says, then the first
// number of OMP_NUM_THREADS, then the processors that this process may run on.
int num_threads();
void set_num_threads(int n);

// What RELKERNELS_NUM_THREADS says; 0 where it is not set. Throws std::invalid_argument where it is not an
// integer from 1 to kMostThreads.
int threads_asked_for();

// Who works on a call: several threads, or the caller alone (one item of a batch, say).
class Team {
   public:
    explicit Team(int size) : size_(size) {}
    int size() const { return size_; }

    // f(task) for task = 0 .. tasks - 1, each once, in any order, on any of the team's threads. The first
    // exception stops the loop and is thrown here.
    void for_each(long tasks, const std::function<void(long)>& f) const;

   private:
    int size_;
};

// Scratch memory of the calling thread, kept from call to call: taken within a Scope, given back when
// the Scope ends. Scopes nest.
class Arena {
   public:
    class Scope {
       public:
        Scope();
        ~Scope();
        Scope(const Scope&) = delete;
        // 64-byte aligned, not initialized.
        template <class T>
        T* take(long n) {
            return static_cast<T*>(bytes(std::size_t(n) * sizeof(T)));
        }
        void* bytes(std::size_t n);

       private:
        Arena& arena_;
        std::size_t block_, used_;
    };

   private:
    struct Block {
        std::unique_ptr<std::byte[]> memory;
        std::size_t size;
    };
    std::vector<Block> blocks_;
    std::size_t block_ = 0, used_ = 0;
    int depth_ = 0;
    static Arena& of_this_thread();
};

}  // namespace rk
