// Attention of one thread: some queries of one sequence against one block-wise pass over its keys.
//
// A row is a query: one token and one of the heads that share keys and values. Keys are dealt with in blocks of
// kKeyBlock, counted from position 0 of the sequence. Over the blocks of one split (`key_split` keys) a row keeps a
// running maximum, sum and mix; the splits' states are merged in order. So a row's result depends on its query and
// on the keys that it sees, not on the rows beside it, on how they are shared out, or on how the tokens before it
// came: decoding, a chunk of a prompt and a whole prompt give the same bits.
#pragma once

#include <stdint.h>

#include "matrix.h"

namespace deepground {

constexpr int64_t kKeyBlock = 64;
static_assert(kKeyBlock % kPanel == 0);

// One layer of a cache: the row of slot s begins at data + s * width values.
struct CacheView {
    const void* data = nullptr;
    bool bf16 = false;  // else float32
    int64_t width = 0;
};

struct AttentionTask {
    CacheView keys, values;  // data: at the columns of these heads
    int64_t key_dim = 0, value_dim = 0;
    const int64_t* slots = nullptr;  // of the sequence's tokens from position 0
    int64_t context = 0;             // token i of the rows sees positions 0 .. context + i
    const float* q = nullptr;        // of (token i, head j): q + i * q_token + j * q_head, key_dim values
    int64_t q_token = 0, q_head = 0;
    int64_t heads = 0;                   // heads that share these keys
    int64_t row_begin = 0, row_end = 0;  // row = token * heads + head
    float scale = 0;
    int64_t key_split = 0;  // a multiple of kKeyBlock; by the model's shape alone (key_split_of)
};

// The state of a row, in floats: its mix in units of e^maximum, in whole panels; the sum, by lanes of a vector; the
// maximum. Mixes of bf16 values are kept in the order in which a vector's pairs come apart.
DG_INLINE int64_t state_mix(int64_t value_dim) { return (value_dim + kPanel - 1) / kPanel * kPanel; }
DG_INLINE int64_t state_stride(int64_t value_dim) { return state_mix(value_dim) + 32; }

// Keys of a split: as few as let the states of one token take a sixteenth of the bytes of its keys, so that the threads
// have something to share in short texts too.
DG_INLINE int64_t key_split_of(int64_t heads, int64_t key_dim, int64_t value_dim) {
    constexpr int64_t kMost = 512;
    const int64_t keys = 16 * heads * state_stride(value_dim) * 4 / (key_dim * 2);
    const int64_t blocks = (keys + kKeyBlock - 1) / kKeyBlock;
    return blocks * kKeyBlock < kMost ? blocks * kKeyBlock : kMost;
}

struct AttentionKernels {
    // Bytes of scratch that `attend` wants, 64-byte aligned.
    int64_t (*scratch_bytes)(const AttentionTask& task);
    // The states of the task's rows over one split, from nothing.
    void (*attend)(const AttentionTask& task, int64_t split, float* states, void* scratch);
    // states += others, those of a later split.
    void (*merge)(float* states, const float* others, int64_t rows, int64_t value_dim);
    // out = mix / sum, value_dim values of one row; bf16: whether the values were.
    void (*finish)(const float* state, int64_t value_dim, bool bf16, float* out);
};

}  // namespace deepground
