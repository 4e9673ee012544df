#include "base/threads.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/openmp.hpp"

namespace rk {

bool (*interrupt_check)() = nullptr;

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPollInterval = std::chrono::milliseconds(50);
// Threads that wait spin this long before they sleep: the gap between two calls, and more. On a virtual
// machine a worker that has slept may be given the caller's processor, where it waits for milliseconds: with
// 30 and 60 microseconds a row of calls of 0.15 to 3 ms took as long on two threads as on one.
constexpr auto kSpin = std::chrono::microseconds(200);
// With OpenMP's threads the caller spins for about as long as they do: a caller that slept would lose its
// processor to another thread that is waiting for one.
constexpr auto kSpinOnOpenmp = std::chrono::milliseconds(2);
// A thread gets at least this many multiply-adds (some 15 microseconds), and at least as many as take the
// time that waking it takes.
constexpr double kWorkOfThread = 500e3, kWorkOfNanosecond = 40;
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kArenaBlock = std::size_t(1) << 20;
constexpr std::size_t kArenaKept = std::size_t(8) << 20;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns once the condition is true, or after some time.
template <class Condition>
void spin_until(const Condition& condition, Clock::duration longest = kSpin) {
    const Clock::time_point end = Clock::now() + longest;
    do {
        for (int i = 0; i < 16; ++i) {
            if (condition()) return;
            pause();
        }
    } while (Clock::now() < end);
}

struct Job {
    const std::function<void(long)>& f;
    long tasks;
    std::atomic<long> next{0};
    std::atomic<bool> stop{false};
    std::mutex error_mutex;
    std::exception_ptr error;

    Job(const std::function<void(long)>& f, long tasks) : f(f), tasks(tasks) {}
    void work();
};

// What this thread is doing: a worker has a job and may not call Python; the caller may.
thread_local Job* current_job = nullptr;
thread_local bool is_worker = false;

void Job::work() {
    Job* outer = current_job;
    current_job = this;
    try {
        for (long task; !stop.load(std::memory_order_relaxed) && (task = next++) < tasks;) {
            poll();
            f(task);
        }
    } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        stop = true;
    }
    current_job = outer;
}

// Nanoseconds that the caller spends on waking workers: 2,000 to 10,000 where processors are idle,
// 50,000 where they are shared.
std::atomic<double> wake_cost{5e3};

// The caller never waits for a worker to wake up: a worker joins a job while places are open, and the caller
// closes the job when no task is left. On shared processors, where waking takes 60 to 120 microseconds, the
// caller has by then done a short job alone.
class Pool {
   public:
    // False, having done nothing, where another call holds the pool.
    bool run(Job& job, int threads) {
        const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn) return false;
        if (has_openmp_team(threads)) {
            run_on_openmp(job, threads - 1);
            return true;
        }
        const int workers = grow(threads - 1);
        const int asleep = open(job, workers);
        const int awake = workers_ - asleep;
        if (workers > awake) wake(workers - awake, asleep);
        work_as_caller(job, kSpin);
        return true;
    }

   private:
    // Lets workers join the job; returns how many of the pool's are asleep.
    int open(Job& job, int workers) {
        const std::lock_guard<std::mutex> lock(mutex_);
        job_ = &job;
        places_ = workers;
        return asleep_;
    }

    void work_as_caller(Job& job, Clock::duration spin) {
        job.work();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            places_ = 0;
        }
        wait(job, spin);
    }

    // A worker's part in the job that is open; `lock` holds mutex_.
    void work_as_worker(std::unique_lock<std::mutex> lock) {
        --places_;
        ++running_;
        Job* job = job_;
        lock.unlock();
        job->work();
        if (--running_ == 0) {
            lock.lock();
            done_.notify_all();
        }
    }

    // OpenMP's threads are workers of this one job. Those for which there is no place return at once.
    void run_on_openmp(Job& job, int workers) {
        struct Region {
            Pool& pool;
            Job& job;
            std::thread::id caller;
        } region{*this, job, std::this_thread::get_id()};
        open(job, workers);
        run_on_openmp_team(
            [](void* data) {
                const auto& [pool, job, caller] = *static_cast<Region*>(data);
                if (std::this_thread::get_id() == caller) return pool.work_as_caller(job, kSpinOnOpenmp);
                std::unique_lock<std::mutex> lock(pool.mutex_);
                if (pool.places_ == 0) return;
                is_worker = true;
                pool.work_as_worker(std::move(lock));
                is_worker = false;
            },
            &region);
    }

    // Starts workers up to this number, or as many as the system allows; returns how many may be
    // used.
    int grow(int workers) {
        try {
            for (; workers_ < workers; ++workers_) std::thread([this] { live(); }).detach();
        } catch (const std::system_error&) {
        }
        return workers_ < workers ? workers_ : workers;
    }

    // Wakes some of the workers that sleep, and keeps count of what that costs: a median, which a call that
    // the system interrupted does not move far.
    void wake(int workers, int asleep) {
        const Clock::time_point start = Clock::now();
        if (workers == asleep)
            wake_.notify_all();
        else
            for (int i = 0; i < workers; ++i) wake_.notify_one();
        const std::chrono::duration<double, std::nano> taken = Clock::now() - start;
        const double cost = wake_cost.load();
        wake_cost = std::clamp(taken.count() > cost ? cost * 1.2 : cost / 1.2, 1e3, 1e6);
    }

    void live() {
        is_worker = true;
        for (;;) {
            spin_until([this] { return places_ > 0; });
            std::unique_lock<std::mutex> lock(mutex_);
            if (places_ == 0) {
                ++asleep_;
                wake_.wait(lock);
                --asleep_;
            }
            // One that wakes too late for a job spins for the next.
            if (places_ > 0) work_as_worker(std::move(lock));
        }
    }

    // The caller has run out of tasks; the others finish theirs. It still listens for Ctrl-C.
    void wait(Job& job, Clock::duration spin) {
        spin_until([this] { return running_ == 0; }, spin);
        while (running_ != 0) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                done_.wait_for(lock, kPollInterval, [this] { return running_ == 0; });
            }
            if (running_ != 0 && !job.stop && interrupt_check && interrupt_check()) {
                const std::lock_guard<std::mutex> lock(job.error_mutex);
                if (!job.error) job.error = std::make_exception_ptr(Interrupted());
                job.stop = true;
            }
        }
    }

    std::mutex turn_;  // one call at a time
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::atomic<int> places_{0};   // workers that may still join the job
    std::atomic<int> running_{0};  // workers that have joined it and not finished
    Job* job_ = nullptr;
    int workers_ = 0;
    int asleep_ = 0;
};

// Never destroyed: workers sleep on it until the process ends. A forked child has none of the parent's
// threads, and its copy of the locks may be held, so it starts over with a new pool.
std::atomic<Pool*> pool{nullptr};
std::mutex* pool_creation = new std::mutex;

Pool& the_pool() {
    if (Pool* p = pool.load()) return *p;
    const std::lock_guard<std::mutex> lock(*pool_creation);
    if (!pool.load()) {
        static const int registered = pthread_atfork(nullptr, nullptr, [] {
            pool = nullptr;
            pool_creation = new std::mutex;
        });
        (void)registered;
        pool = new Pool;
    }
    return *pool.load();
}

// The whole number that text begins with, up to `end`; 0 if it is not from 1 to kMostThreads.
int count_in(const char* text, const char** end) {
    int n = 0;
    for (*end = text; **end >= '0' && **end <= '9'; ++*end)
        if (n <= kMostThreads) n = 10 * n + (**end - '0');
    return n <= kMostThreads ? n : 0;
}

// The number for the outermost level in OMP_NUM_THREADS, "4" or "4,2"; 0 if it is absent or malformed: the
// variable belongs to another library, which reports the error.
int omp_threads() {
    const char* text = std::getenv("OMP_NUM_THREADS");
    if (!text) return 0;
    const auto skip_blanks = [&text] {
        while (*text == ' ' || *text == '\t') ++text;
    };
    skip_blanks();
    const int n = count_in(text, &text);
    skip_blanks();
    return *text == '\0' || *text == ',' ? n : 0;
}

int default_threads() {
    for (const int n : {threads_asked_for(), omp_threads()})
        if (n > 0) return n;
#if defined(__linux__)
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return CPU_COUNT(&cpus);
#endif
    const int n = int(std::thread::hardware_concurrency());
    return n > 0 ? n : 1;
}

std::atomic<int> threads{0};

}  // namespace

int num_threads() {
    int none = 0;  // keep a number that another thread has set meanwhile
    if (threads == 0) threads.compare_exchange_strong(none, default_threads());
    return threads;
}

void set_num_threads(int n) { threads = n; }

int threads_asked_for() {
    const char* text = std::getenv("RELKERNELS_NUM_THREADS");
    if (!text) return 0;
    const char* end = nullptr;
    const int n = count_in(text, &end);
    if (n == 0 || *end != '\0')
        throw std::invalid_argument("RELKERNELS_NUM_THREADS: expected an integer from 1 to " +
                                    std::to_string(kMostThreads) + ", got '" +
                                    std::string(text).substr(0, 60) + "'");
    return n;
}

void poll() {
    if (current_job && current_job->stop.load(std::memory_order_relaxed)) throw Interrupted();
    if (is_worker || !interrupt_check) return;
    thread_local Clock::time_point last = Clock::now();
    const Clock::time_point now = Clock::now();
    if (now - last < kPollInterval) return;
    last = now;
    if (interrupt_check()) throw Interrupted();
}

Team team_for(double work) {
    const double most = work / std::max(kWorkOfThread, kWorkOfNanosecond * wake_cost);
    return Team(most >= 2 ? int(std::min(double(num_threads()), most)) : 1);
}

void Team::for_each(long tasks, const std::function<void(long)>& f) const {
    const int size = int(tasks < size_ ? tasks : size_);
    if (size > 1 && !current_job) {
        Job job(f, tasks);
        if (the_pool().run(job, size)) {
            if (job.error) std::rethrow_exception(job.error);
            return;
        }
    }
    for (long task = 0; task < tasks; ++task) {
        poll();
        f(task);
    }
}

Arena& Arena::of_this_thread() {
    thread_local Arena arena;
    return arena;
}

Arena::Scope::Scope() : arena_(of_this_thread()), block_(arena_.block_), used_(arena_.used_) {
    ++arena_.depth_;
}

Arena::Scope::~Scope() {
    arena_.block_ = block_;
    arena_.used_ = used_;
    if (--arena_.depth_ > 0) return;
    std::size_t kept = 0;
    for (const Block& block : arena_.blocks_) kept += block.size;
    if (kept > kArenaKept) arena_.blocks_.clear();
}

void* Arena::Scope::bytes(std::size_t n) {
    n = (n + kAlignment - 1) / kAlignment * kAlignment;
    Arena& a = arena_;
    while (a.block_ < a.blocks_.size() && a.used_ + n + kAlignment > a.blocks_[a.block_].size) {
        ++a.block_;
        a.used_ = 0;
    }
    if (a.block_ == a.blocks_.size()) {
        const std::size_t size = n + kAlignment > kArenaBlock ? n + kAlignment : kArenaBlock;
        a.blocks_.push_back({std::unique_ptr<std::byte[]>(new std::byte[size]), size});
        a.used_ = 0;
    }
    std::byte* base = a.blocks_[a.block_].memory.get();
    const std::size_t skew = (kAlignment - reinterpret_cast<std::uintptr_t>(base) % kAlignment) % kAlignment;
    std::byte* at = base + skew + a.used_;
    a.used_ += n;
    return at;
}

}  // namespace rk
