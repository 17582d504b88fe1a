// Attention over a paged cache, on all threads.
//
// New tokens' keys and values are in the cache before the call. Every output of a token is the same, bit for bit,
// whatever else is in the call, however many threads there are, and however the tokens before it were cut into
// calls (attention_task.h says why).
//
// Legend: T tokens of the call.
#pragma once

#include <stdint.h>

#include <vector>

#include "attention_task.h"
#include "matrix.h"

namespace deepground {

struct Machine;  // ops.h

// One sequence's share of a call: rows start .. start + length of T.
struct Span {
    int64_t start = 0, length = 0;
    int64_t context = 0;             // tokens in the cache before these
    const int64_t* slots = nullptr;  // (context + length): cache slot of every token so far, the new ones last
};

// Attention in which heads / kv_heads query heads share one key/value head.
// q: (T, heads * head_dim) with stride ldq; keys: width kv_heads * head_dim; values: width kv_heads * v_dim;
// out: (T, heads * v_dim) with stride ldo, for the rows of spans only.
void gqa_attention(const Machine& machine, const Span* spans, int64_t count, const float* q, int64_t ldq, const CacheView& keys,
                   const CacheView& values, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_dim, float scale, float* out,
                   int64_t ldo);

// The two halves of DeepSeek's kv_b projection, cut by head, as the absorbed form wants them.
struct MlaWeights {
    int64_t heads = 0, nope = 0, rope = 0, v_dim = 0, kv_lora = 0;
    std::vector<const Matrix*> key_up;    // by head, (n = kv_lora, k = nope): a query to what the latent is compared with
    std::vector<const Matrix*> value_up;  // by head, (n = v_dim, k = kv_lora): the mixed latent to the head's output
};

// Multi-head latent attention, absorbed: all heads read the latents as one shared key, and as values. Prompts too:
// decompressed keys would take a third of the multiply-adds for long prompts, but a token's result would then depend on
// whether it came in a prompt or was generated.
// q: (T, heads * (nope + rope)) with stride ldq, rope parts rotated; latents: width kv_lora + rope, the normed latent
// first, the rotated shared key after; out: (T, heads * v_dim) with stride ldo.
void mla_attention(const Machine& machine, const Span* spans, int64_t count, const MlaWeights& weights, const float* q, int64_t ldq,
                   const CacheView& latents, float scale, float* out, int64_t ldo);

}  // namespace deepground
