// Threads: our own pool (OpenMP's hangs in a forked child; calls from PyTorch run on its threads all the
// same, see openmp.hpp), scratch memory for each thread, and interruption of long calls by the user.
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

// Call this between pieces of work of about a millisecond; throws Interrupted if the call must end.
void poll();

constexpr int kMostThreads = 4096;

// Threads that calls use. Before the first set_num_threads: the value of RELKERNELS_NUM_THREADS, else the
// first number of OMP_NUM_THREADS, else the number of processors that this process may run on.
int num_threads();
void set_num_threads(int n);

// The value of RELKERNELS_NUM_THREADS, 0 if it is not set. Throws std::invalid_argument if it is not an
// integer from 1 to kMostThreads.
int threads_asked_for();

// The threads that work on a call, or on one item of its batch: several, or only the caller. team_for chooses
// them by the work.
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

// The threads that pay for themselves in this much work. It is counted in multiply-adds, and anything else in
// as many as take the same time.
constexpr double kWorkOfExp = 16;
Team team_for(double work);

// Scratch memory of the calling thread, kept from call to call: allocated within a Scope, released when the
// Scope ends. Scopes nest.
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
