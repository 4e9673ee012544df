#include "operations/screening.hpp"

#include <cfloat>

#include "operations/above.hpp"
#include "operations/top_k.hpp"

namespace rk {

namespace {

using A = Full<float>;

// Rows that are screened together. Those with more than a sixteenth of their pairs left are multiplied in
// full.
constexpr long kStrip = 12;
constexpr long kFullShare = 16;
constexpr long kLongestPause = 64;  // tiles that a failing strip does not screen
// Relative margin of the bounds for their own roundings, of which there are fewer than 8.
constexpr double kMargin = 0x1p-20;

struct Pending {
    float bound;  // of its value, times u_q
    std::int32_t column;

    // Better-bounded ones first.
    friend bool operator<(const Pending& a, const Pending& b) {
        return (a.bound > b.bound) | ((a.bound == b.bound) & (a.column < b.column));
    }
};

long groups_of(long depth) { return ceil_div(depth, 4); }

// At least the relative error of a chain of `depth` multiply-adds, each of up to two roundings.
double chain_error(long depth) {
    return double(std::min(depth, kChainDepth) + depth / kChainDepth + 4) * 0x1p-23;
}

void encode_panels(const Points<float>& keys, long first, long panels, std::int8_t* codes, float* terms) {
    const long groups = groups_of(keys.dim);
    for (long p = first; p < first + panels; ++p)
        kernels<float>().encode(keys.at(p * kCodeLanes), keys.row,
                                std::min(long(kCodeLanes), keys.count - p * kCodeLanes), keys.dim, kKeyLevels,
                                0, reinterpret_cast<std::uint8_t*>(codes + p * groups * kCodeLanes * 4),
                                kCodeLanes * 4, 4, terms + p * kCodeTerms * kCodeLanes);
}

// All panels from `first` on.
void encode_panels(const Team& team, const Points<float>& keys, long first, std::int8_t* codes,
                   float* terms) {
    constexpr long kPanels = 16;
    const long panels = ceil_div(keys.count, kCodeLanes) - first;
    team.for_each(ceil_div(panels, kPanels), [&](long task) {
        encode_panels(keys, first + task * kPanels, std::min(kPanels, panels - task * kPanels), codes, terms);
    });
}

template <class Consumer>
class Screening {
   public:
    Screening(const Team& team, const Points<float>& rows, const Points<float>& keys, const KeyCodes& codes,
              const Consumer& consumer)
        : team_(team), rows_(rows), keys_(keys), given_(codes), consumer_(consumer), depth_(keys.width()) {}

    void run() {
        const long per_row = (own_rows() ? depth_ * 4 : 0) + code_row() + state_bytes(kRowBlock) / kRowBlock;
        const long super_rows = kRowBlock * std::max(kWorkspace / (per_row * kRowBlock), 2L * team_.size());
        for (long i = 0; i < rows_.count; i += super_rows) {
            const long n = std::min(super_rows, rows_.count - i);
            const long done = screen_rows(i, n);
            if (done == keys_.count) continue;
            // The bounds are too wide for this data.
            walk(i, n, done);
            if (i + n < rows_.count) walk(i + n, rows_.count - i - n, 0);
            return;
        }
    }

   private:
    // A strip pauses for some tiles after too many pairs passed, twice as many the next time.
    struct Strip {
        long pause = 0, next = 1;
        float error = 0;
    };
    // The rows of a block, shared by the parts of its columns.
    struct Block {
        long first, rows;
        Points<float> features;
        std::uint8_t* codes;
        float *unit, *reach, *error;  // error: of each strip
    };
    // What one part of the columns has found for a block.
    struct State {
        typename Consumer::State found;
        float* minus_bar;
        Pending* pending;
        long* waiting;  // in the list of pending, of each row
        std::array<Strip, kRowBlock / kStrip> strips{};
        long tiles = 0;                           // of the columns
        long screened_tiles = 0, full_tiles = 0;  // of strips, after the warm-up
    };

    bool own_rows() const { return !rows_.are_features() || rows_.col != 1; }
    bool own_keys() const { return !keys_.are_features() || keys_.col != 1; }
    long code_row() const { return groups_of(depth_) * 4; }
    // Tiles that are multiplied in full at first: at best k of as many pairs as were seen pass.
    long warm_up() const { return ceil_div(kFullShare * consumer_.warm_up_pairs(), kTileColumns); }
    long pending_capacity() const { return std::clamp(2 * consumer_.warm_up_pairs(), 64L, 512L); }

    void take(Space& space, long rows, State& s) const {
        s.found = consumer_.make(space, rows);
        s.minus_bar = space.take<float>(rows);
        s.pending = space.take<Pending>(rows * pending_capacity());
        s.waiting = space.take<long>(rows);
    }
    long state_bytes(long rows) const {
        Space counted;
        State s;
        take(counted, rows, s);
        return counted.used();
    }

    void walk(long i, long n, long column) const {
        walk_pairs<A>(team_, rows_.sub(i, n),
                      {{keys_.sub(column, keys_.count - column), Operand<A>::columns}}, 1, 1,
                      consumer_.from(i, column));
    }

    // Screens rows i .. i + n - 1; returns how many columns were done.
    long screen_rows(long i, long n) {
        const long block = std::clamp(n / (8 * team_.size()) / kStrip * kStrip, 2 * kStrip, kRowBlock);
        const long blocks = ceil_div(n, n <= kRowBlock && team_.size() == 1 ? n : block);
        const long size = std::min(n, blocks == 1 ? n : block);
        const long parts = blocks >= team_.size() || keys_.count < kChunk ? 1 : team_.size();

        // Codes are written 16 rows at a time.
        const long padded = round_up(size, kCodeLanes);
        const Buffer<float> features(own_rows() ? n * depth_ : 0), numbers(blocks * 3 * padded);
        const Buffer<std::uint8_t> codes(blocks * padded * code_row());
        const long each = state_bytes(size);
        const Buffer<std::byte> memory(blocks * parts * each);
        std::vector<Block> all(static_cast<std::size_t>(blocks));
        std::vector<State> states(static_cast<std::size_t>(blocks * parts));
        team_.for_each(blocks, [&](long b) {
            Block& rows = all[std::size_t(b)];
            rows.first = i + b * size;
            rows.rows = std::min(size, n - b * size);
            float* const at = numbers.get() + b * 3 * padded;
            rows.codes = codes.get() + b * padded * code_row();
            rows.unit = at;
            rows.reach = at + padded;
            rows.error = at + 2 * padded;
            rows.features = features_of(rows_.sub(rows.first, rows.rows),
                                        own_rows() ? features.get() + b * size * depth_ : nullptr);
            encode_rows(rows);
            for (long p = 0; p < parts; ++p) {
                State& s = states[std::size_t(b * parts + p)];
                Space space(memory.get() + (b * parts + p) * each);
                take(space, size, s);
                consumer_.init(s.found, rows.rows);
                for (long r = 0; r < rows.rows; ++r) raise(rows, s, r);
                std::fill_n(s.waiting, rows.rows, 0);
            }
        });

        long j = 0;
        const auto finish = [&] {
            team_.for_each(blocks, [&](long b) {
                State* s = &states[std::size_t(b * parts)];
                for (long p = 1; p < parts; ++p)
                    consumer_.merge(s[0].found, s[p].found, all[std::size_t(b)].rows);
                consumer_.finish(s[0].found, all[std::size_t(b)].first, all[std::size_t(b)].rows);
            });
            return j;
        };
        // The first columns show whether the bounds are narrow enough.
        const long per_key = (own_keys() ? depth_ * 4 : 0) + (given_.codes ? 0 : code_row() + kCodeTerms * 4);
        const long most = per_key ? std::max(kWorkspace / per_key / kChunk, 1L) * kChunk : 1L << 30;
        const long trial = std::min(
            most, round_up(std::max(keys_.count / 16, 6 * warm_up() * kTileColumns * parts), kChunk));
        const long width = std::min(keys_.count, most);
        const Buffer<float> key_features(own_keys() ? width * depth_ : 0);
        const Buffer<float> terms(given_.codes ? 0 : round_up(width, kCodeLanes) * kCodeTerms);
        const Buffer<std::int8_t> key_codes(given_.codes ? 0 : round_up(width, kCodeLanes) * code_row());
        while (j < keys_.count) {
            const long m = std::min(j == 0 ? trial : most, keys_.count - j);
            Points<float> keys = keys_.sub(j, m);
            if (own_keys()) {
                team_.for_each(ceil_div(m, kTileColumns), [&](long t) {
                    const long first = t * kTileColumns;
                    features_of(keys.sub(first, std::min(kTileColumns, m - first)),
                                key_features.get() + first * depth_);
                });
                keys = {key_features.get(), m, depth_, depth_, 1};
            }
            KeyCodes of_keys{key_codes.get(), terms.get()};
            if (given_.codes)
                of_keys = {given_.codes + j * code_row(), given_.terms + j * kCodeTerms};
            else
                encode_panels(team_, keys, 0, key_codes.get(), terms.get());
            const long tiles = ceil_div(m, kTileColumns), in_part = ceil_div(tiles, parts);
            team_.for_each(blocks * parts, [&](long task) {
                const long part = task % parts;
                screen_part(all[std::size_t(task / parts)], states[std::size_t(task)], keys, of_keys, j,
                            part * in_part, std::min(tiles, (part + 1) * in_part));
            });
            j += m;
            long screened = 0, full = 0;
            for (const State& s : states) screened += s.screened_tiles, full += s.full_tiles;
            if (full > screened) return finish();
        }
        return finish();
    }

    // Rows of features with unit stride, in `space` if they are not so already.
    Points<float> features_of(const Points<float>& p, float* space) const {
        if (!space) return p;
        if (!p.are_features()) return features_in<A>(p, space, depth_);
        for (long i = 0; i < p.count; ++i)
            for (long c = 0; c < depth_; ++c) space[i * depth_ + c] = p.at(i)[c * p.col];
        return {space, p.count, depth_, depth_, 1};
    }

    void encode_rows(const Block& b) const {
        const double chain = chain_error(depth_);
        std::fill_n(b.error, ceil_div(b.rows, kStrip), 0.0f);
        for (long i = 0; i < b.rows; i += kCodeLanes) {
            float terms[kCodeTerms][kCodeLanes];
            const long n = std::min(long(kCodeLanes), b.rows - i);
            kernels<float>().encode(b.features.at(i), b.features.row, n, depth_, kQueryLevels, kCodeOffset,
                                    b.codes + i * code_row(), 4, code_row(), terms[0]);
            for (long r = 0; r < n; ++r) {
                // |y| and |q^| are at most `reach`.
                const double reach = double(terms[1][r]) + double(terms[2][r]);
                const double error = reach > 0 ? double(terms[2][r]) / reach : 0.0;
                b.unit[i + r] = terms[0][r];
                b.reach[i + r] = float(reach * (1 + kMargin));
                float& of_strip = b.error[(i + r) / kStrip];
                of_strip = std::max(of_strip, float((error + chain) * (1 + kMargin)));
            }
        }
    }

    // -bar u, a little more, so that what the bounds' own roundings could change passes.
    void raise(const Block& b, const State& s, long i) const {
        const double bar =
            std::clamp(double(consumer_.bar(s.found, b.first + i, i)), -double(FLT_MAX), double(FLT_MAX)) *
            double(b.unit[i]);
        if (bar != bar || b.unit[i] == 0)  // every pair passes
            s.minus_bar[i] = FLT_MAX;
        else
            s.minus_bar[i] =
                float(std::clamp(std::abs(bar) * kMargin - bar, -double(FLT_MAX), double(FLT_MAX)));
    }

    // Tiles [from, to) of the columns j .. of `keys`.
    void screen_part(const Block& b, State& s, const Points<float>& keys, const KeyCodes& codes, long j,
                     long from, long to) const {
        const long groups = groups_of(depth_);
        const std::vector<Operand<A>> operands = {{keys, Operand<A>::columns}};
        Arena::Scope scratch;
        float* const tile = scratch.take<float>(operands[0].tile_size());
        float* const space = scratch.take<float>(kStrip * kTileColumns);
        Survivor* const found = scratch.take<Survivor>(kStrip * (kTileColumns + kCodeLanes));
        for (long t = from; t < to; ++t) {
            const long j0 = t * kTileColumns, cols = std::min(kTileColumns, keys.count - j0);
            if (consumer_.met(b.first, b.rows, j + j0, cols).empty()) continue;
            if (t % (kChunk / kTileColumns) == 0) poll();
            const bool warm = ++s.tiles > warm_up(), counted = s.tiles > 2 * warm_up();
            bool packed = false;
            for (long r0 = 0; r0 < b.rows; r0 += kStrip) {
                const long n = std::min(kStrip, b.rows - r0), most = n * cols / kFullShare;
                Strip& strip = s.strips[std::size_t(r0 / kStrip)];
                if (warm && strip.pause == 0) {
                    const CodedRows rows{b.codes + r0 * code_row(), code_row(), s.minus_bar + r0,
                                         b.reach + r0, b.error[r0 / kStrip]};
                    const float* terms = codes.terms + j0 * kCodeTerms;
                    const long count = kernels<float>().screen(rows, n, codes.codes + j0 * code_row(), terms,
                                                               groups, cols, most, found);
                    if (count <= most) {
                        strip.next = 1;
                        s.screened_tiles += counted;
                        for (long c = 0; c < count; ++c)
                            add(b, s, keys, j, r0 + found[c].row, j0, found[c], terms);
                        continue;
                    }
                    strip.pause = strip.next = std::min(2 * strip.next, kLongestPause);
                }
                strip.pause = std::max(strip.pause - 1, 0L);
                s.full_tiles += counted;
                const bool in_place = operands[0].read_in_place(b.rows);
                if (!in_place && !packed) operands[0].pack(j0, cols, tile);
                packed = true;
                const TileOperand<A> of_tile = operands[0].in_tile(tile, in_place, j0);
                of_tile.product(b.features.at(r0), b.features.row, 1, 0, n, cols, depth_, space, kTileColumns,
                                {});
                consumer_.accept(
                    s.found, Tile<A>{space, kTileColumns, b.first + r0, n, j + j0, cols, r0, 0, &of_tile});
                if constexpr (!Consumer::kFixedBar)
                    for (long r = r0; r < r0 + n; ++r) raise(b, s, r);
            }
        }
        for (long i = 0; i < b.rows; ++i) settle(b, s, keys, j, i, 0);
    }

    void add(const Block& b, State& s, const Points<float>& keys, long j, long i, long j0,
             const Survivor& pair, const float* terms) const {
        const long column = j0 + pair.column;
        if (!consumer_.searched.allows(b.first + i, j + column)) return;
        const float unit =
            terms[pair.column / kCodeLanes * kCodeTerms * kCodeLanes + pair.column % kCodeLanes];
        const double slack = double(pair.excess) / double(unit), bar = -double(s.minus_bar[i]);
        const double bound = unit == 0
                                 ? double(FLT_MAX)
                                 : std::min(bar + slack + kMargin * (std::abs(bar) + slack), double(FLT_MAX));
        s.pending[i * pending_capacity() + s.waiting[i]++] = {float(bound), std::int32_t(column)};
        if (s.waiting[i] == pending_capacity()) settle(b, s, keys, j, i, pending_capacity() / 2);
    }

    // Multiplies the best-bounded pending pairs of a row until at most `most` are left.
    void settle(const Block& b, State& s, const Points<float>& keys, long j, long i, long most) const {
        Pending* const list = s.pending + i * pending_capacity();
        const auto keep = [&](long from) {  // those from a place on that may still enter
            const float bar = -s.minus_bar[i];
            long kept = 0;
            for (long c = from; c < s.waiting[i]; ++c) {
                list[kept] = list[c];
                kept += list[c].bound >= bar;
            }
            s.waiting[i] = kept;
        };
        keep(0);
        if (s.waiting[i] <= most) return;
        const long batch = std::max(pending_capacity() / 4, 16L);
        Arena::Scope scratch;
        float* const gathered = scratch.take<float>(batch * depth_);
        float* const values = scratch.take<float>(batch);
        while (s.waiting[i] > most) {
            const long n = std::min(batch, s.waiting[i]);
            if constexpr (!Consumer::kFixedBar) select_first(list, s.waiting[i], n);
            for (long c = 0; c < n; ++c) std::copy_n(keys.at(list[c].column), depth_, gathered + c * depth_);
            kernels<float>().product_of_rows(b.features.at(i), b.features.row, 1, gathered, Storage::own,
                                             depth_, 1, n, depth_, values, batch, {});
            for (long c = 0; c < n; ++c)
                consumer_.offer(s.found, b.first + i, i, values[c], j + list[c].column);
            if constexpr (!Consumer::kFixedBar) {
                consumer_.select(s.found, i);
                raise(b, s, i);
            }
            keep(n);
        }
    }

    const Team& team_;
    const Points<float> rows_, keys_;
    const KeyCodes given_;
    const Consumer& consumer_;
    const long depth_;
};

}  // namespace

bool screening_pays(const Points<float>& rows, const Points<float>& keys, const KeyCodes& codes, long k) {
    const long depth = keys.width();
    if (depth == 0 || depth > kMostCodedDepth || keys.count < 8 * kTileColumns || 16 * k > keys.count)
        return false;
    // Making codes costs as much as these rows save; deep keys are read from memory for it.
    return codes.codes || rows.count >= std::max(24L, 16 + depth / 6);
}

template <class Consumer>
void search_screened(const Team& team, const Points<float>& rows, const Points<float>& keys,
                     const KeyCodes& codes, const Consumer& consumer) {
    Screening<Consumer>(team, rows, keys, codes, consumer).run();
}

template void search_screened(const Team&, const Points<float>&, const Points<float>&, const KeyCodes&,
                              const TopK<float>&);
template void search_screened(const Team&, const Points<float>&, const Points<float>&, const KeyCodes&,
                              const Above<float>&);

void encode_keys(const Array<const float>& features, long first, std::int8_t* codes, float* terms) {
    const Points<float> keys{features.data, features.dim(2), features.dim(1), features.step(2), 1};
    encode_panels(Team(num_threads()), keys, first / kCodeLanes, codes, terms);
}

}  // namespace rk
