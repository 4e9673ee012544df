// All R_ij at or above a threshold, without storing R. Mirrors csrc/operations/retrieve_above.cpp.
//
// One walk over the pairs counts those of each row and part of the columns. Prefix sums of the counts are the
// places of the pairs in the result, to which a second walk writes them. Both walks are the same kernel but
// for the writes, so that the second computes the same bits. Flops: 4 n m d. Bytes: the keys twice per block
// of 64 rows, the result once, and 8 bytes per row and part.
#include "prefix_sums.cuh"
#include "search.cuh"

namespace rk::cuda {

namespace {

template <class A, int G, bool kWrites>
struct Above {
    using Sum = typename A::Sum;
    static constexpr int kProducts = 1, kValueTiles = 0, kRows = A::kRows * G;
    static constexpr bool kOrderFree = true, kMerges = false;
    struct Parameters {
        Searched searched;
        Strided thresholds;
        // (items, rows, parts): how many pairs were found, or the place of the first of them.
        std::int64_t* places;
        long parts;
        std::int64_t* indices = nullptr;
        void* values = nullptr;
        Dtype dtype = Dtype::float32;
    };
    static long shared_bytes(const Parameters&, int block_rows) {
        return block_rows * long(2 * sizeof(std::int64_t) + sizeof(Sum));
    }

    const Parameters& q;
    const Place place;
    const long row0, rows, count, first_place;
    const Searched::Item searched;
    const Lead& lead;
    // For each of the warp's rows: a bit for each column of the tile, set if the pair was found; how many
    // pairs were found in the tiles before (or the place of the next one); and the threshold.
    std::uint64_t* found;
    std::int64_t* next;
    Sum* bars;

    RK_DEVICE Above(const Parameters& parameters, const Pairs<typename A::Factor>& p, const Place& at,
                    char* memory)
        : q(parameters),
          place(at),
          row0(at.first_row + 16 * G * warp_index()),
          rows(at.rows),
          count(at.columns),
          first_place((at.item * rows + row0) * parameters.parts + at.part),
          searched(parameters.searched.of_item(p.lead, at.item)),
          lead(p.lead) {
        const int first = 16 * G * warp_index();
        found = reinterpret_cast<std::uint64_t*>(memory) + first;
        next = reinterpret_cast<std::int64_t*>(memory) + place.block_rows + first;
        bars = reinterpret_cast<Sum*>(memory + 2 * place.block_rows * sizeof(std::int64_t)) + first;
    }
    RK_DEVICE Span columns() const {
        return q.searched.mask.band.columns_of(place.first_row,
                                               min(place.first_row + place.block_rows, rows));
    }
    RK_DEVICE void init() {
        const long thresholds = q.thresholds.lead.offset(lead, place.item);
        for (int r = lane_index(); r < 16 * G; r += 32) {
            const bool inside = row0 + r < rows;
            found[r] = 0;
            next[r] = kWrites && inside ? q.places[first_place + r * q.parts] : 0;
            // No value is at or above NaN.
            bars[r] = inside ? load_element<Sum>(q.thresholds.data, q.thresholds.dtype,
                                                 thresholds + (row0 + r) * q.thresholds.row)
                             : Sum(kInfinity) - Sum(kInfinity);
        }
        sync_warp();
    }

    RK_DEVICE void accept(Sum (&acc)[1][kRows][A::kColumns], long tile, const char*, char*) {
        const int lane = lane_index();
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const int r = A::row_of(lane, i);
            const Sum bar = bars[r];
            std::uint64_t own = 0;
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                const long column = tile * kTileColumns + A::column_of(lane, j);
                if (!(acc[0][i][j] >= bar) || column >= count) continue;
                if (q.searched.allows(searched, row0 + r, column))
                    own |= std::uint64_t(1) << A::column_of(lane, j);
            }
            if (own) set_bits(found + r, own);
        }
        sync_warp();
        if constexpr (kWrites) {
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const int r = A::row_of(lane, i);
                const std::uint64_t of_row = found[r];
                if (of_row == 0) continue;
#pragma unroll
                for (int j = 0; j < A::kColumns; ++j) {
                    const int c = A::column_of(lane, j);
                    const std::uint64_t bit = std::uint64_t(1) << c;
                    if ((of_row & bit) == 0) continue;
                    const long at = next[r] + count_bits(of_row & (bit - 1));
                    q.indices[at] = tile * kTileColumns + c;
                    store_element(q.values, q.dtype, at, acc[0][i][j]);
                }
            }
            sync_warp();
        }
        for (int r = lane; r < 16 * G; r += 32) {
            next[r] += count_bits(found[r]);
            found[r] = 0;
        }
        sync_warp();
    }
    RK_DEVICE void finish() {
        if constexpr (!kWrites)
            for (int r = lane_index(); r < 16 * G && row0 + r < rows; r += 32)
                q.places[first_place + r * q.parts] = next[r];
    }
};

constexpr int kCopyThreads = 256;

// to[i] <- from[i step]
RK_KERNEL(kCopyThreads) copy_every(const std::int64_t* from, long step, std::int64_t* to, long count) {
    const long i = long(block_index()) * kCopyThreads + thread_index();
    if (i < count) to[i] = from[i * step];
}

void copy_from(const Context& context, const std::int64_t* from, long step, const Array& to) {
    const long count = to.dim(1);
    launch(copy_every, ceil_div(count, kCopyThreads), 1, kCopyThreads, 0, context.stream, from, step,
           reinterpret_cast<std::int64_t*>(to.data), count);
}

template <class A, bool kWrites>
void walk(const Context& context, Pairs<typename A::Factor>& pairs, const Grid& grid,
          const typename Above<A, 1, kWrites>::Parameters& parameters) {
    launch_walk<A, 1, Above<A, 1, kWrites>>(context, pairs, grid, parameters);
    check_launch("retrieve_above");
}

}  // namespace

template <class A>
FoundPairs retrieve_above(const Context& context, const Relation<A>& relation, const Searchable& searchable,
                          const Array& thresholds, const Array& total) {
    std::vector<LeadStride> leads;
    Search<A> search(context, relation, searchable, {leading(thresholds.stride, 1)}, leads);
    Pairs<typename A::Factor>& pairs = search.pairs;
    pairs.row_blocks = pairs.blocks_of(64);
    const long rows = relation.rows.batch(2) * pairs.rows[0].count;
    const Grid grid = grid_of_tiles(pairs.row_blocks * relation.rows.batch(2), pairs.columns[0].count,
                                    context.multiprocessors);
    Strided bars = strided(thresholds, 1);
    bars.lead = leads[0];
    std::int64_t* const places = context.take<std::int64_t>(rows * grid.parts + 1);
    walk<A, false>(context, pairs, grid, {search.searched, bars, places, grid.parts});
    prefix_sums(context, places, rows * grid.parts);
    copy_from(context, places + rows * grid.parts, 1, total);
    return {[=](const Array& offsets, const Array& indices, const Array& values) {
        copy_from(context, places, grid.parts, offsets);
        if (values.dim(1) == 0) return;
        Pairs<typename A::Factor> again = pairs;
        walk<A, true>(context, again, grid,
                      {search.searched, bars, places, grid.parts,
                       reinterpret_cast<std::int64_t*>(indices.data), values.data, values.dtype});
    }};
}

#define RK_INSTANTIATE(A)                                                                                   \
    template FoundPairs retrieve_above(const Context&, const Relation<A>&, const Searchable&, const Array&, \
                                       const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
