// Attention over cached keys and values (attention_task.h), written once over the vector type.
//
// Scores (rows, 64 keys) are products over key_dim with the block's keys as columns, mixes (rows, value_dim) products over
// the block's keys with its values as they lie. Both go by panels of 32 columns, brought to floats just before they are
// used, so that they are used from the first-level cache.

namespace deepground {
namespace {

inline float infinity() { return __builtin_inff(); }

constexpr int64_t kMaximum = 16;  // where it stands behind a state's mix

// Cache rows of one element type.
template <typename Code>
struct CodeVec;
template <>
struct CodeVec<float> {
    static constexpr int kCodes = kLanes;  // codes of one key that a transposed square of keys and words covers
    static inline Vec load_words(const float* p) { return load(p); }
    // 2 * kLanes values, and where value i of them is then found.
    static inline void load_two(const float* p, Vec* out) {
        out[0] = load(p);
        out[1] = load(p + kLanes);
    }
    static inline int64_t place(int64_t i) { return i; }
    static inline float value(float code) { return code; }
    static inline void store_words(Vec words, int64_t word, float* out) { store(out + word * kPanel, words); }
};
template <>
struct CodeVec<uint16_t> {
    static constexpr int kCodes = 2 * kLanes;  // two codes are transposed as one word
    static inline Vec load_words(const uint16_t* p) { return load_pairs(p); }
    static inline void load_two(const uint16_t* p, Vec* out) {  // as pairs come apart: even ones first
        const Vec words = load_pairs(p);
        out[0] = even_bf16(words);
        out[1] = odd_bf16(words);
    }
    static inline int64_t place(int64_t i) {
        constexpr int64_t kTwo = 2 * kLanes;
        return i / kTwo * kTwo + i % 2 * kLanes + i % kTwo / 2;
    }
    static inline float value(uint16_t code) {
        const uint32_t bits = static_cast<uint32_t>(code) << 16;
        float x;
        __builtin_memcpy(&x, &bits, sizeof x);
        return x;
    }
    static inline void store_words(Vec words, int64_t word, float* out) {
        store(out + 2 * word * kPanel, even_bf16(words));
        store(out + (2 * word + 1) * kPanel, odd_bf16(words));
    }
};

// Where the keys or values of one block lie, and those of the next, which are fetched meanwhile: each line of it when
// the same line of this block is read.
template <typename Code>
struct BlockRows {
    const Code *row[kKeyBlock], *next[kKeyBlock];
};

// Of the block that begins at `first`. Places behind the last key repeat it: nothing looks at their scores.
template <typename Code>
inline void find_rows(const CacheView& view, const int64_t* slots, int64_t first, int64_t end, const Code** rows) {
    const int64_t count = end - first < kKeyBlock ? end - first : kKeyBlock;
    for (int64_t i = 0; i < count; ++i) rows[i] = static_cast<const Code*>(view.data) + slots[first + i] * view.width;
    for (int64_t i = count < 0 ? 0 : count; i < kKeyBlock; ++i) rows[i] = static_cast<const Code*>(view.data) + slots[end - 1] * view.width;
}

// 32 keys as columns: [dim][32].
template <typename Code>
inline void pack_keys(const BlockRows<Code>& rows, int64_t first, int64_t dim, float* out) {
    using Codes = CodeVec<Code>;
    for (int64_t group = 0; group < kPanel; group += kLanes) {
        const Code *const *row = rows.row + first + group, *const *next = rows.next + first + group;
        int64_t d = 0;
        for (; d + Codes::kCodes <= dim; d += Codes::kCodes) {
            Vec words[kLanes];
            for (int i = 0; i < kLanes; ++i) {
                words[i] = Codes::load_words(row[i] + d);
                prefetch(next[i] + d);
            }
            transpose(words);
            for (int i = 0; i < kLanes; ++i) Codes::store_words(words[i], i, out + d * kPanel + group);
        }
        for (; d < dim; ++d)
            for (int i = 0; i < kLanes; ++i) out[d * kPanel + group + i] = Codes::value(row[i][d]);
    }
}

// Up to 32 columns of the first `count` values, from column d on: [key][32], zeros behind dim.
template <typename Code>
inline void pack_values(const BlockRows<Code>& rows, int64_t count, int64_t d, int64_t dim, float* out) {
    using Codes = CodeVec<Code>;
    for (int64_t key = 0; key < count; ++key, out += kPanel) {
        const Code* row = rows.row[key] + d;
        if (d + kPanel <= dim) {
            prefetch(rows.next[key] + d);
            for (int i = 0; i < kPanel; i += 2 * kLanes) {
                Vec two[2];
                Codes::load_two(row + i, two);
                store(out + i, two[0]);
                store(out + i + kLanes, two[1]);
            }
        } else {
            for (int64_t i = 0; i < kPanel; ++i) out[Codes::place(i)] = d + i < dim ? Codes::value(row[i]) : 0.0f;
        }
    }
}

static_assert(kTileVecs % 2 == 0, "values come two vectors at a time");

// What a product multiplies with: `count` rows of 32 columns.
struct Panel {
    const float* values;
    inline void columns(int64_t k, int64_t i, Vec* out) const {
        for (int v = 0; v < kTileVecs; ++v) out[v] = load(values + k * kPanel + i + v * kLanes);
    }
    inline void fetch(int64_t) const {}
};
template <typename Code>
struct CachePanel {  // values as they lie in the cache
    const BlockRows<Code>& rows;
    int64_t d;
    inline void columns(int64_t k, int64_t i, Vec* out) const {
        for (int v = 0; v < kTileVecs; v += 2) CodeVec<Code>::load_two(rows.row[k] + d + i + v * kLanes, out + v);
    }
    inline void fetch(int64_t k) const { prefetch(rows.next[k] + d); }
};

// out[r][32] = scale * (x[r][..count] times panel), or added to out where kAdd; each sum over k in order, from zero.
template <int R, bool kAdd, typename Source>
inline void product_tile(const Source& panel, int64_t part, int64_t count, const float* x, int64_t ldx, Vec scale, float* out,
                         int64_t ldo) {
    Vec sums[R][kTileVecs];
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kTileVecs; ++i) sums[r][i] = zero();
    for (int64_t k = 0; k < count; ++k) {
        panel.fetch(k);
        Vec column[kTileVecs];
        panel.columns(k, part, column);
        for (int r = 0; r < R; ++r) {
            const Vec factor = set1(x[r * ldx + k]);
            for (int i = 0; i < kTileVecs; ++i) sums[r][i] = fma(factor, column[i], sums[r][i]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kTileVecs; ++i) {
            float* place = out + r * ldo + part + i * kLanes;
            store(place, kAdd ? add(load(place), sums[r][i]) : mul(scale, sums[r][i]));
        }
}

template <int R, bool kAdd, typename Source>
inline void product_rows(int64_t rows, const Source& panel, int64_t part, int64_t count, const float* x, int64_t ldx, Vec scale,
                         float* out, int64_t ldo) {
    if (rows == R) product_tile<R, kAdd>(panel, part, count, x, ldx, scale, out, ldo);
    else if constexpr (R > 1) product_rows<R - 1, kAdd>(rows, panel, part, count, x, ldx, scale, out, ldo);
}

// All rows, in tiles of like size, and all 32 columns.
template <bool kAdd, typename Source>
inline void product(const Source& panel, int64_t count, const float* x, int64_t ldx, int64_t rows, Vec scale, float* out, int64_t ldo) {
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    for (int64_t part = 0; part < kPanel; part += kTileVecs * kLanes)
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t begin = rows * tile / tiles, end = rows * (tile + 1) / tiles;
            product_rows<kTileRows, kAdd>(end - begin, panel, part, count, x + begin * ldx, ldx, scale, out + begin * ldo, ldo);
        }
}

// One row's scores to weights in place, its state's maximum, sum and units to match. Keys from `visible` on get 0.
inline void soften(float* scores, int64_t visible, float* state, int64_t mix) {
    constexpr int kVecs = static_cast<int>(kKeyBlock) / kLanes;
    for (int64_t i = visible; i < kKeyBlock; ++i) scores[i] = -infinity();
    float *sums = state + mix, &so_far = state[mix + kMaximum];
    Vec score[kVecs];
    for (int i = 0; i < kVecs; ++i) score[i] = load(scores + i * kLanes);
    Vec largest = set1(so_far);
    for (int i = 0; i < kVecs; ++i) largest = vmax(score[i], largest);  // a NaN is passed over here, not below
    const float top = maximum(largest);
    if (top != so_far) {
        const Vec factor = vexp(sub(set1(so_far), set1(top)));
        for (int64_t i = 0; i < mix; i += kLanes) store(state + i, mul(load(state + i), factor));
        store(sums, mul(load(sums), factor));
        so_far = top;
    }
    const Vec base = set1(top == -infinity() ? 0.0f : top);
    Vec total = load(sums);
    for (int i = 0; i < kVecs; ++i) {
        const Vec weight = vexp(sub(score[i], base));
        store(scores + i * kLanes, weight);
        total = add(total, weight);
    }
    store(sums, total);
}

// Where the parts of a task's scratch begin, in floats; each a multiple of a line.
struct AttentionScratch {
    int64_t scores, panel, end;  // the queries come first; a panel of keys or values
    explicit AttentionScratch(const AttentionTask& task) {
        const int64_t rows = task.row_end - task.row_begin;
        scores = (rows * task.key_dim + 15) / 16 * 16;
        panel = scores + rows * kKeyBlock;
        end = panel + kPanel * (task.key_dim > kKeyBlock ? task.key_dim : kKeyBlock);
    }
};

int64_t attention_scratch_bytes(const AttentionTask& task) {
    return AttentionScratch(task).end * static_cast<int64_t>(sizeof(float));
}

// Rows first_row .. rows against the `count` keys of the block that begins at position `first`.
template <typename Code>
inline void attend_block(const AttentionTask& task, const BlockRows<Code>& keys, const BlockRows<Code>& values, float* memory,
                         int64_t first, int64_t count, int64_t first_row, float* states) {
    const AttentionScratch at(task);
    const int64_t rows = task.row_end - task.row_begin - first_row;
    const int64_t mix = state_mix(task.value_dim), stride = state_stride(task.value_dim);
    float *scores = memory + at.scores + first_row * kKeyBlock, *state = states + first_row * stride, *panel = memory + at.panel;
    for (int64_t key = 0; key < count; key += kPanel) {
        pack_keys(keys, key, task.key_dim, panel);
        product<false>(Panel{panel}, task.key_dim, memory + first_row * task.key_dim, task.key_dim, rows, set1(task.scale), scores + key,
                       kKeyBlock);
    }
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = (task.row_begin + first_row + row) / task.heads;
        const int64_t seen = task.context + token + 1 - first;
        soften(scores + row * kKeyBlock, seen < count ? seen : count, state + row * stride, mix);
    }
    for (int64_t d = 0; d < task.value_dim; d += kPanel) {
        if (rows <= kTileRows && d + kPanel <= task.value_dim) {  // each value is used once: not worth bringing to floats before
            product<true>(CachePanel<Code>{values, d}, count, scores, kKeyBlock, rows, set1(1.0f), state + d, stride);
        } else {
            pack_values(values, count, d, task.value_dim, panel);
            product<true>(Panel{panel}, count, scores, kKeyBlock, rows, set1(1.0f), state + d, stride);
        }
    }
}

// Every block of keys of a split: body(keys, values, position of the first, count, rows before the first that sees it).
template <typename Code, typename Body>
inline void for_key_blocks(const AttentionTask& task, int64_t split, const Body& body) {
    const int64_t last_token = (task.row_end - 1) / task.heads, end = task.context + last_token + 1;
    const int64_t split_end = (split + 1) * task.key_split < end ? (split + 1) * task.key_split : end;
    if (split_end <= split * task.key_split) return;  // these rows see nothing of it
    BlockRows<Code> keys, values;
    find_rows(task.keys, task.slots, split * task.key_split, split_end, keys.next);
    find_rows(task.values, task.slots, split * task.key_split, split_end, values.next);
    for (int64_t first = split * task.key_split; first < split_end; first += kKeyBlock) {
        for (int64_t i = 0; i < kKeyBlock; ++i) {
            keys.row[i] = keys.next[i];
            values.row[i] = values.next[i];
        }
        find_rows(task.keys, task.slots, first + kKeyBlock, split_end, keys.next);
        find_rows(task.values, task.slots, first + kKeyBlock, split_end, values.next);
        const int64_t count = split_end - first < kKeyBlock ? split_end - first : kKeyBlock;
        const int64_t first_token = first - task.context;  // that sees position `first`
        const int64_t skipped = first_token * task.heads - task.row_begin;
        body(keys, values, first, count, skipped > 0 ? skipped : 0);
    }
}

// The states of the task's rows before they have seen anything.
inline void clear_states(const AttentionTask& task, float* states) {
    const int64_t mix = state_mix(task.value_dim), stride = state_stride(task.value_dim);
    for (int64_t row = task.row_begin; row < task.row_end; ++row, states += stride) {
        for (int64_t i = 0; i < mix; i += kLanes) store(states + i, zero());
        store(states + mix, zero());
        states[mix + kMaximum] = -infinity();
    }
}

inline const float* query_of(const AttentionTask& task, int64_t row) {
    return task.q + row / task.heads * task.q_token + row % task.heads * task.q_head;
}

template <typename Code>
void attend_split(const AttentionTask& task, int64_t split, float* states, float* memory) {
    for_key_blocks<Code>(task, split, [&](const auto& keys, const auto& values, int64_t first, int64_t count, int64_t first_row) {
        attend_block(task, keys, values, memory, first, count, first_row, states);
    });
}

void attend(const AttentionTask& task, int64_t split, float* states, void* scratch) {
    float* memory = static_cast<float*>(scratch);
    clear_states(task, states);
    for (int64_t row = task.row_begin; row < task.row_end; ++row) {
        const float* query = query_of(task, row);
        float* copy = memory + (row - task.row_begin) * task.key_dim;
        for_vectors(task.key_dim, [&](int64_t i, int64_t count) { store_any(copy + i, load_any(query + i, count), count); });
    }
    if (task.keys.bf16) attend_split<uint16_t>(task, split, states, memory);
    else attend_split<float>(task, split, states, memory);
}

void merge_states(float* states, const float* others, int64_t rows, int64_t value_dim) {
    const int64_t mix = state_mix(value_dim), stride = state_stride(value_dim);
    for (int64_t row = 0; row < rows; ++row, states += stride, others += stride) {
        if (sum(load(others + mix)) == 0.0f) continue;  // sees nothing of that split
        float &top = states[mix + kMaximum], other = others[mix + kMaximum];
        const float larger = other > top ? other : top;
        const Vec ours = vexp(sub(set1(top), set1(larger))), theirs = vexp(sub(set1(other), set1(larger)));
        for (int64_t i = 0; i < mix; i += kLanes) store(states + i, fma(load(states + i), ours, mul(load(others + i), theirs)));
        store(states + mix, fma(load(states + mix), ours, mul(load(others + mix), theirs)));
        top = larger;
    }
}

template <typename Code>
void finish_as(const float* state, int64_t value_dim, float* out) {
    const float factor = 1.0f / sum(load(state + state_mix(value_dim)));
    for (int64_t i = 0; i < value_dim; ++i) out[i] = state[CodeVec<Code>::place(i)] * factor;
}

void finish_state(const float* state, int64_t value_dim, bool bf16, float* out) {
    if (bf16) finish_as<uint16_t>(state, value_dim, out);
    else finish_as<float>(state, value_dim, out);
}

[[maybe_unused]] constexpr AttentionKernels kAttention = {attention_scratch_bytes, attend, merge_states, finish_state};

}  // namespace
}  // namespace deepground
