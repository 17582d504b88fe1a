// Attention over BF16 caches with BF16 dot products; caches of floats take the way of attention.inl.
//
// Queries and the weights of keys are rounded to BF16, sums are floats. Scores (rows, 64 keys) are products over pairs of
// dimensions with 32 keys as columns, mixes (rows, value_dim) products over pairs of keys with 32 values as columns. Each
// sum runs over its pairs in order, whatever the number of rows.

namespace deepground {
namespace {

constexpr int64_t kDimStep = kPairs;  // dimensions of a line of queries
static_assert(kPanelVecs == 2, "a line of pairs is half a panel");

inline int64_t padded_dim(int64_t dim) { return (dim + kDimStep - 1) / kDimStep * kDimStep; }

// Where the parts of a task's scratch begin, in bytes; the rounded queries come first.
struct PairScratch {
    int64_t scores, weights, panel, end;
    explicit PairScratch(const AttentionTask& task) {
        const int64_t rows = task.row_end - task.row_begin, dim = padded_dim(task.key_dim);
        scores = rows * dim * 2;
        weights = scores + rows * kKeyBlock * 4;
        panel = weights + rows * kKeyBlock * 2;
        end = panel + kPanel * 2 * (dim > kKeyBlock ? dim : kKeyBlock);
    }
};

int64_t attention_pairs_scratch_bytes(const AttentionTask& task) {
    return task.keys.bf16 ? PairScratch(task).end : attention_scratch_bytes(task);
}

// 32 keys as columns: [dim/2][32][2], zeros behind dim.
inline void pack_key_pairs(const BlockRows<uint16_t>& rows, int64_t first, int64_t dim, uint16_t* out) {
    for (int64_t group = 0; group < kPanel; group += kLanes) {
        const uint16_t *const *row = rows.row + first + group, *const *next = rows.next + first + group;
        int64_t d = 0;
        for (; d + kDimStep <= dim; d += kDimStep) {
            Vec words[kLanes];
            for (int i = 0; i < kLanes; ++i) {
                words[i] = load_pairs(row[i] + d);
                prefetch(next[i] + d);
            }
            transpose(words);
            for (int i = 0; i < kLanes; ++i)
                store(reinterpret_cast<float*>(out + (d / 2 + i) * 2 * kPanel + group * 2), words[i]);
        }
        for (; d < padded_dim(dim); d += 2)
            for (int i = 0; i < kLanes; ++i) {
                uint16_t* pair = out + d * kPanel + (group + i) * 2;
                pair[0] = d < dim ? row[i][d] : 0;
                pair[1] = d + 1 < dim ? row[i][d + 1] : 0;
            }
    }
}

// Where value i of a state's mix stands: two rows of values interleaved leave each lane of 128 bits its own.
inline int64_t pair_value_place(int64_t i) { return i / 32 * 32 + i % 8 / 4 * 16 + i % 32 / 8 * 4 + i % 4; }

// Values d .. d + 32 of two keys as pairs, in the order of pair_value_place.
inline void interleave_values(__m512i first, __m512i second, Pairs* out) {
    out[0] = {_mm512_unpacklo_epi16(first, second)};
    out[1] = {_mm512_unpackhi_epi16(first, second)};
}

// 32 values, zeros behind dim.
inline __m512i load_values(const uint16_t* row, int64_t left) {
    if (left >= kPanel) return _mm512_loadu_si512(row);
    alignas(64) uint16_t part[kPanel] = {};
    for (int64_t i = 0; i < left; ++i) part[i] = row[i];
    return _mm512_load_si512(part);
}

// What a product multiplies with: `columns` of the pair that begins at k.
struct PackedPairs {
    const uint16_t* lines;  // [count/2][32][2]
    inline void columns(int64_t k, Pairs* out) const {
        out[0] = load_line(lines + k * kPanel);
        out[1] = load_line(lines + (k + 1) * kPanel);
    }
};
struct CachedValues {  // as they lie in the cache
    const BlockRows<uint16_t>& rows;
    int64_t d, left;
    inline void columns(int64_t k, Pairs* out) const {
        interleave_values(load_values(rows.row[k] + d, left), load_values(rows.row[k + 1] + d, left), out);
        if (left >= kPanel) {
            prefetch(rows.next[k] + d);
            prefetch(rows.next[k + 1] + d);
        }
    }
};

// out[r][32] = scale * (x[r][..count] times columns), or added to out where kAdd.
template <int R, bool kAdd, typename Source>
inline void pair_product_tile(const Source& source, int64_t count, const uint16_t* x, int64_t ldx, Vec scale, float* out,
                              int64_t ldo) {
    Vec sums[R][kPanelVecs];
    clear<R>(sums);
    for (int64_t k = 0; k < count; k += 2) {
        Pairs column[kPanelVecs];
        source.columns(k, column);
        dot_rows<R, kPanelVecs>(column, x + k, ldx, sums);
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kPanelVecs; ++i) {
            float* place = out + r * ldo + i * kLanes;
            store(place, kAdd ? add(load(place), sums[r][i]) : mul(scale, sums[r][i]));
        }
}

template <int R, bool kAdd, typename Source>
inline void pair_product_rows(int64_t rows, const Source& source, int64_t count, const uint16_t* x, int64_t ldx, Vec scale,
                              float* out, int64_t ldo) {
    if (rows == R) pair_product_tile<R, kAdd>(source, count, x, ldx, scale, out, ldo);
    else if constexpr (R > 1) pair_product_rows<R - 1, kAdd>(rows, source, count, x, ldx, scale, out, ldo);
}

// All rows, in tiles of like size.
template <bool kAdd, typename Source>
inline void pair_product(const Source& source, int64_t count, const uint16_t* x, int64_t ldx, int64_t rows, Vec scale, float* out,
                         int64_t ldo) {
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t begin = rows * tile / tiles, end = rows * (tile + 1) / tiles;
        pair_product_rows<kTileRows, kAdd>(end - begin, source, count, x + begin * ldx, ldx, scale, out + begin * ldo, ldo);
    }
}

// Rows first_row .. rows against the `count` keys of the block that begins at position `first`.
inline void attend_pairs_block(const AttentionTask& task, const BlockRows<uint16_t>& keys, const BlockRows<uint16_t>& values,
                               char* memory, int64_t first, int64_t count, int64_t first_row, float* states) {
    const PairScratch at(task);
    const int64_t rows = task.row_end - task.row_begin - first_row, dim = padded_dim(task.key_dim);
    const int64_t mix = state_mix(task.value_dim), stride = state_stride(task.value_dim);
    const uint16_t* queries = reinterpret_cast<uint16_t*>(memory) + first_row * dim;
    float *scores = reinterpret_cast<float*>(memory + at.scores) + first_row * kKeyBlock, *state = states + first_row * stride;
    uint16_t* weights = reinterpret_cast<uint16_t*>(memory + at.weights) + first_row * kKeyBlock;
    uint16_t* panel = reinterpret_cast<uint16_t*>(memory + at.panel);
    for (int64_t key = 0; key < count; key += kPanel) {
        pack_key_pairs(keys, key, task.key_dim, panel);
        pair_product<false>(PackedPairs{panel}, dim, queries, dim, rows, set1(task.scale), scores + key, kKeyBlock);
    }
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = (task.row_begin + first_row + row) / task.heads;
        const int64_t seen = task.context + token + 1 - first;
        float* score = scores + row * kKeyBlock;
        soften(score, seen < count ? seen : count, state + row * stride, mix);
        for (int64_t i = 0; i < kKeyBlock; i += 2 * kLanes)
            store_line(weights + row * kKeyBlock + i, round_pairs(load(score + i), load(score + i + kLanes)));
    }
    const int64_t pairs = (count + 1) / 2 * 2;  // of an odd number of keys the last has a repeated one beside it, of weight 0
    for (int64_t d = 0; d < task.value_dim; d += kPanel) {
        const CachedValues cached{values, d, task.value_dim - d};
        if (rows <= kTileRows) {  // each value is used once: not worth keeping
            pair_product<true>(cached, pairs, weights, kKeyBlock, rows, set1(1.0f), state + d, stride);
            continue;
        }
        for (int64_t k = 0; k < pairs; k += 2) {
            Pairs column[kPanelVecs];
            cached.columns(k, column);
            store_line(panel + k * kPanel, column[0]);
            store_line(panel + (k + 1) * kPanel, column[1]);
        }
        pair_product<true>(PackedPairs{panel}, pairs, weights, kKeyBlock, rows, set1(1.0f), state + d, stride);
    }
}

void attend_pairs(const AttentionTask& task, int64_t split, float* states, void* scratch) {
    if (!task.keys.bf16) {
        attend(task, split, states, scratch);
        return;
    }
    clear_states(task, states);
    uint16_t* queries = static_cast<uint16_t*>(scratch);
    for (int64_t row = task.row_begin; row < task.row_end; ++row)
        for (int64_t i = 0; i < task.key_dim; i += kDimStep, queries += kDimStep)
            store_line(queries, round_inputs(query_of(task, row) + i, task.key_dim - i));
    for_key_blocks<uint16_t>(task, split, [&](const auto& keys, const auto& values, int64_t first, int64_t count, int64_t first_row) {
        attend_pairs_block(task, keys, values, static_cast<char*>(scratch), first, count, first_row, states);
    });
}

void finish_pairs(const float* state, int64_t value_dim, bool bf16, float* out) {
    if (!bf16) {
        finish_as<float>(state, value_dim, out);
        return;
    }
    const float factor = 1.0f / sum(load(state + state_mix(value_dim)));
    for (int64_t i = 0; i < value_dim; ++i) out[i] = state[pair_value_place(i)] * factor;
}

constexpr AttentionKernels kAttentionPairs = {attention_pairs_scratch_bytes, attend_pairs, merge_states, finish_pairs};

}  // namespace
}  // namespace deepground
