// The k largest inner products of each row, best first, without storing R. Mirrors
// csrc/operations/retrieve.cpp.
//
// Flops: 2 n m d. Bytes: the keys once per block of 64 rows. Each thread compares its values with the k-th
// best of their row so far and appends the few that are better to the row's buffer, 128 entries in shared
// memory. When a buffer is full, the row's warp sorts it and merges it into the row's list, k entries in
// global memory (which stay in the caches); the same merge joins the lists of blocks that share a row.
// Entries are ordered by value, then by index, so the result does not depend on the order of threads.
#include "search.cuh"

namespace rk::cuda {

namespace {

// Floats mapped to unsigned integers in the same order. 0: no entry; 1: NaN, which ranks below every number.
template <class Sum>
struct KeyOf;
template <>
struct KeyOf<float> {
    using Key = std::uint32_t;
    static constexpr Key kSign = 0x80000000u;
};
template <>
struct KeyOf<double> {
    using Key = std::uint64_t;
    static constexpr Key kSign = 0x8000000000000000ull;
};

template <class To, class From>
RK_DEVICE To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    union {
        From from;
        To to;
    } bits;
    bits.from = value;
    return bits.to;
}

template <class Sum>
RK_DEVICE typename KeyOf<Sum>::Key key_of(Sum value) {
    using Key = typename KeyOf<Sum>::Key;
    if (value != value) return 1;
    const Key bits = bits_as<Key>(value + Sum(0));  // -0 becomes 0
    return bits & KeyOf<Sum>::kSign ? ~bits : bits | KeyOf<Sum>::kSign;
}
template <class Sum>
RK_DEVICE Sum value_of(typename KeyOf<Sum>::Key key) {
    if (key == 0) return Sum(-kInfinity);
    if (key == 1) return Sum(kInfinity) - Sum(kInfinity);
    return bits_as<Sum>(key & KeyOf<Sum>::kSign ? key & ~KeyOf<Sum>::kSign : ~key);
}

template <class Sum>
struct Entry {
    typename KeyOf<Sum>::Key key;
    std::int32_t index;
};
template <class Sum>
RK_DEVICE bool better(const Entry<Sum>& a, const Entry<Sum>& b) {
    return a.key > b.key || (a.key == b.key && a.index < b.index);
}

inline constexpr int kBuffer = 128;

// Sorts the buffer, best first (bitonic, Batcher 1968). Called by all lanes of a warp.
template <class Sum>
RK_DEVICE void sort_buffer(Entry<Sum>* buffer) {
    for (int size = 2; size <= kBuffer; size *= 2)
        for (int stride = size / 2; stride > 0; stride /= 2) {
            for (int e = lane_index(); e < kBuffer / 2; e += 32) {
                const int i = e / stride * 2 * stride + e % stride, j = i + stride;
                const bool best_first = (i & size) == 0;
                const Entry<Sum> a = buffer[i], b = buffer[j];
                if (better(b, a) == best_first && (better(b, a) || better(a, b))) {
                    buffer[i] = b;
                    buffer[j] = a;
                }
            }
            sync_warp();
        }
}

// The number of entries better than `entry`; they are sorted, best first.
template <class Sum>
RK_DEVICE int count_better(const Entry<Sum>* entries, int count, const Entry<Sum>& entry) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (better(entries[middle], entry))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// to <- the k best of both lists, skipping entries of key 0. Called by all lanes of a warp; `to` overlaps
// neither list.
template <class Sum>
RK_DEVICE void merge(const Entry<Sum>* a, int count_a, const Entry<Sum>* b, int count_b, Entry<Sum>* to,
                     int k) {
    for (int e = lane_index(); e < k; e += 32) to[e] = {0, -1};
    sync_warp();
    for (int e = lane_index(); e < count_a; e += 32) {
        const int at = e + count_better(b, count_b, a[e]);
        if (at < k && a[e].key) to[at] = a[e];
    }
    for (int e = lane_index(); e < count_b; e += 32) {
        const int at = e + count_better(a, count_a, b[e]);
        if (at < k && b[e].key) to[at] = b[e];
    }
    sync_warp();
}

template <class Sum>
RK_DEVICE void write_row(const Strided& values, const Strided& indices, long value_at, long index_at,
                         const Entry<Sum>* list, int k) {
    for (int e = lane_index(); e < k; e += 32) {
        store_element(values.data, values.dtype, value_at + e * values.column, value_of<Sum>(list[e].key));
        static_cast<std::int64_t*>(indices.data)[index_at + e * indices.column] = list[e].index;
    }
}

template <class A, int G>
struct TopK {
    using Sum = typename A::Sum;
    using Key = typename KeyOf<Sum>::Key;
    static constexpr int kProducts = 1, kValueTiles = 0, kRows = A::kRows * G;
    static constexpr bool kOrderFree = true, kMerges = true;
    struct Parameters {
        int k;
        Searched searched;
        Entry<Sum>* lists;  // (parts, items, rows, 2, k)
        bool split;
        Strided values, indices;
        long items, rows;
    };
    static long shared_bytes(const Parameters&, int block_rows) {
        return block_rows * (kBuffer * long(sizeof(Entry<Sum>)) + 16);
    }

    const Parameters& q;
    const Pairs<typename A::Factor>& p;
    const Place place;
    const long row0, rows, count;
    const Searched::Item searched;
    // For each of the warp's rows: its buffer, the key of the k-th best so far, the number of entries waiting
    // in the buffer, and which of its two lists is current.
    Entry<Sum>* buffers;
    Key* worst;
    int *waiting, *current;

    RK_DEVICE TopK(const Parameters& parameters, const Pairs<typename A::Factor>& pairs, const Place& at,
                   char* memory)
        : q(parameters),
          p(pairs),
          place(at),
          row0(at.first_row + 16 * G * warp_index()),
          rows(at.rows),
          count(at.columns),
          searched(parameters.searched.of_item(pairs.lead, at.item)) {
        const int block_rows = place.block_rows, first = 16 * G * warp_index();
        buffers = reinterpret_cast<Entry<Sum>*>(memory) + first * kBuffer;
        char* after = memory + block_rows * kBuffer * sizeof(Entry<Sum>);
        worst = reinterpret_cast<Key*>(after) + first;
        waiting = reinterpret_cast<int*>(after + block_rows * sizeof(Key)) + first;
        current = reinterpret_cast<int*>(after + block_rows * (sizeof(Key) + 4)) + first;
    }
    RK_DEVICE Span columns() const {
        return q.searched.mask.band.columns_of(place.first_row,
                                               min(place.first_row + place.block_rows, rows));
    }
    RK_DEVICE void init() {
        for (int r = lane_index(); r < 16 * G; r += 32) {
            worst[r] = 0;
            waiting[r] = current[r] = 0;
        }
        for (int r = 0; r < 16 * G && row0 + r < rows; ++r)
            for (int e = lane_index(); e < q.k; e += 32) list(r, 0)[e] = {0, -1};
        sync_warp();
    }

    RK_DEVICE void accept(Sum (&acc)[1][kRows][A::kColumns], long tile, const char*, char*) {
        const int lane = lane_index();
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const int r = A::row_of(lane, i);
            const Key bar = worst[r];
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                const long column = tile * kTileColumns + A::column_of(lane, j);
                const Key key = key_of(acc[0][i][j]);
                // Among equal values the earlier column wins.
                if (key <= bar || row0 + r >= rows || column >= count) continue;
                if (!q.searched.allows(searched, row0 + r, column)) continue;
                buffers[r * kBuffer + count_up(waiting + r)] = {key, std::int32_t(column)};
            }
        }
        sync_warp();
        // A tile adds at most 64 entries.
        for (int r = 0; r < 16 * G; ++r)
            if (waiting[r] > kBuffer - kTileColumns) empty_buffer(r);
    }
    RK_DEVICE void finish() {
        for (int r = 0; r < 16 * G && row0 + r < rows; ++r) {
            if (waiting[r]) empty_buffer(r);
            const Entry<Sum>* best = list(r, current[r]);
            if (q.split) {
                // merge_parts reads list 0.
                if (current[r])
                    for (int e = lane_index(); e < q.k; e += 32) list(r, 0)[e] = best[e];
                continue;
            }
            const long row = place.row_begin + row0 + r;
            write_row<Sum>(q.values, q.indices, q.values.lead.offset(p.lead, place.item) + row * q.values.row,
                           q.indices.lead.offset(p.lead, place.item) + row * q.indices.row, best, q.k);
        }
    }

    // A warp for each row merges its lists of all parts, one after the other.
    static long merge_threads(const Parameters& q) { return q.items * q.rows * 32; }
    RK_DEVICE static void merge_parts(const Parameters& q, const Pairs<typename A::Factor>& p, long parts) {
        const long index = long(block_index()) * (kMergeThreads / 32) + warp_index();
        if (index >= q.items * q.rows) return;
        const auto list = [&](long part, int which) {
            return q.lists + ((part * q.items * q.rows + index) * 2 + which) * q.k;
        };
        int current = 0;
        for (long part = 1; part < parts; ++part, current = 1 - current)
            merge(list(0, current), q.k, list(part, 0), q.k, list(0, 1 - current), q.k);
        const long item = index / q.rows, row = index % q.rows;
        write_row<Sum>(q.values, q.indices, q.values.lead.offset(p.lead, item) + row * q.values.row,
                       q.indices.lead.offset(p.lead, item) + row * q.indices.row, list(0, current), q.k);
    }

   private:
    RK_DEVICE Entry<Sum>* list(int r, int which) const {
        return q.lists +
               ((((q.split ? place.part : 0) * q.items + place.item) * q.rows + place.row_begin + row0 + r) *
                    2 +
                which) *
                   q.k;
    }
    RK_DEVICE void empty_buffer(int r) {
        Entry<Sum>* buffer = buffers + r * kBuffer;
        const int count = waiting[r], from = current[r];
        for (int e = count + lane_index(); e < kBuffer; e += 32) buffer[e] = {0, -1};
        sync_warp();
        sort_buffer(buffer);
        merge(list(r, from), q.k, buffer, count, list(r, 1 - from), q.k);
        if (lane_index() == 0) {
            worst[r] = list(r, 1 - from)[q.k - 1].key;
            waiting[r] = 0;
            current[r] = 1 - from;
        }
        sync_warp();
    }
};

template <class A>
void retrieve_in_blocks(const Context& context, Search<A>& search, int k, const Strided& values,
                        const Strided& indices) {
    using Sum = typename A::Sum;
    using Consumer = TopK<A, 1>;
    Pairs<typename A::Factor>& p = search.pairs;
    p.row_blocks = p.blocks_of(16 * p.warps);
    const long items = p.lead.items(), rows = p.rows[0].count;
    // The result is exact however columns are cut. Parts of at least 4 k columns, since smaller ones would
    // mostly add entries to merge.
    Grid grid = grid_of_tiles(long(p.row_blocks) * items, p.most_columns(), context.multiprocessors);
    const long least = std::max<long>(kChunkTiles / 4, ceil_div(4L * k, kTileColumns));
    if (grid.tiles_per_part < least) {
        const long tiles = ceil_div(p.most_columns(), kTileColumns);
        grid.tiles_per_part = std::max(1L, std::min(least, tiles));
        grid.parts = std::max(1L, ceil_div(tiles, grid.tiles_per_part));
    }
    Entry<Sum>* lists = context.take<Entry<Sum>>(grid.parts * items * rows * 2 * k);
    launch_walk<A, 1, Consumer>(context, p, grid,
                                {k, search.searched, lists, grid.parts > 1, values, indices, items, rows});
}

}  // namespace

template <class A>
void retrieve(const Context& context, const Relation<A>& relation, const Searchable& searchable,
              const Array& values, const Array& indices) {
    if (relation.rows.dim(2) == 0 || relation.rows.batch(2) == 0) return;
    if (relation.columns.dim(2) > 0x7fffffffL)
        throw std::invalid_argument("keys: expected fewer than 2^31 rows");
    std::vector<LeadStride> leads;
    Search<A> search(context, relation, searchable, {leading(values.stride, 2), leading(indices.stride, 2)},
                     leads);
    const int k = int(values.dim(1));
    Strided best = strided(values), where = strided(indices);
    best.lead = leads[0];
    where.lead = leads[1];
    // Blocks of 64 rows if shared memory has room for their buffers: those of float64 are twice as large.
    if (sizeof(typename A::Sum) == 8 ||
        walk_bytes<A, 1, TopK<A, 1>>(search.pairs, {}, false) > context.shared_bytes)
        search.pairs.warps = 2;
    retrieve_in_blocks<A>(context, search, k, best, where);
    check_launch("retrieve");
}

#define RK_INSTANTIATE(A) \
    template void retrieve(const Context&, const Relation<A>&, const Searchable&, const Array&, const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
