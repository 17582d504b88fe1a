// A whole forward pass over packed weights: what `model.native_decoder` composes and the engine runs.
//
// The mathematics is that of `model.decoder` and its layers, block for block; this is its form for processors.
// Activations are float32. Every value of a token depends on its own sequence only, summed in an order that the
// other sequences of the pass do not change.
//
// Legend: T tokens of the pass, D hidden size, R rotary pairs, V vocabulary.
#pragma once

#include <stdint.h>

#include <memory>
#include <mutex>
#include <vector>

#include "attention.h"
#include "moe.h"
#include "ops.h"

namespace deepground {

// A linear map; bias may be null.
struct LinearWeights {
    const Matrix* w = nullptr;
    const float* bias = nullptr;
};

struct GqaLayer {
    LinearWeights q, k, v, o;
    const float* q_norm = nullptr;  // (head_dim); null: no QK-norm
    const float* k_norm = nullptr;
    int heads = 0, kv_heads = 0, head_dim = 0, rotary_dim = 0;
    float scale = 0;
};

struct MlaLayer {
    LinearWeights q;        // of the hidden state, or of the query latent where there is q_a
    LinearWeights q_a;      // w null: queries are projected directly
    const float* q_a_norm = nullptr;
    LinearWeights kv_a, o;
    const float* kv_a_norm = nullptr;
    MlaWeights weights;
    float scale = 0, latent_eps = 0;
};

struct DenseLayer {
    const Matrix *gate = nullptr, *up = nullptr, *down = nullptr;
};

struct MoeLayer {
    Router router;
    ExpertSet* experts = nullptr;
    const Expert* shared = nullptr;  // null: none
};

struct Layer {
    const float* input_norm = nullptr;
    const float* post_norm = nullptr;
    bool is_mla = false, is_moe = false;
    GqaLayer gqa;
    MlaLayer mla;
    DenseLayer dense;
    MoeLayer moe;
};

// Multi-token prediction: a layer fed with [enorm(embedding); hnorm(hidden)] through eh_proj.
struct MtpLayer {
    Layer layer;
    const float *enorm = nullptr, *hnorm = nullptr, *head_norm = nullptr;
    LinearWeights eh_proj;
};

// One layer's cache: keys and values, or latents in `first` and nothing in `second`.
struct LayerCache {
    CacheView first, second;
};

// What a pass is given.
struct Pass {
    int64_t tokens = 0;
    const int64_t* positions = nullptr;  // (T)
    const float *cos = nullptr, *sin = nullptr;  // (positions, R), tables over all positions
    std::vector<Span> spans;
    std::vector<LayerCache> caches;  // by layer, MTP layers behind the others
};

// Tokens of one sequence that are drafted after the last row of its span.
struct DraftOrder {
    int64_t wanted = 0;  // most drafts; at least 1
    std::vector<int64_t> ids;
};

class Program {
  public:
    int hidden_size = 0, rotary_pairs = 0;
    bool interleaved = false;
    float eps = 0;
    std::vector<Layer> layers;
    std::vector<MtpLayer> mtp_layers;
    const float* norm = nullptr;
    LinearWeights head;

    // x (T, D): embeddings in, hidden states after the final norm out.
    void forward(const Machine& machine, const Pass& pass, float* x);
    // x (T, D): embeddings of the next tokens in, states after the head's norm out; hidden (T, D) of the tokens themselves.
    void mtp_forward(const Machine& machine, const Pass& pass, int depth, const float* hidden, float* x);
    // Drafts for every span, greedily, round by round: the first from a pass as mtp_forward's, each further one from the
    // layer's own state and the draft before it. A sequence's drafting ends where its drafts so far are, by the layer's own
    // estimate, less likely than `least`. The tables of `pass` and the spans' slots reach as far as the drafts.
    // embedding (V, D), in bf16 or float32.
    void mtp_draft(const Machine& machine, const Pass& pass, int depth, const float* hidden, float* x, const void* embedding,
                   bool bf16, float least, std::vector<DraftOrder>& orders);
    // hidden (N, D) to logits (N, V).
    void logits(const Machine& machine, const float* hidden, int64_t rows, float* out);

  private:
    // Buffers of one pass, kept for the next one.
    struct Buffer {
        std::unique_ptr<float[]> data;
        int64_t size = 0;
        float* get(int64_t floats);
    };
    void run_mtp(const Machine& machine, const Pass& pass, int depth, const float* hidden, float* x);
    void run_layer(const Machine& machine, const Pass& pass, const Layer& layer, const LayerCache& cache, float* x);
    void run_gqa(const Machine& machine, const Pass& pass, const GqaLayer& layer, const LayerCache& cache, const float* x, float* out);
    void run_mla(const Machine& machine, const Pass& pass, const MlaLayer& layer, const LayerCache& cache, const float* x, float* out);
    void run_dense(const Machine& machine, const DenseLayer& layer, int64_t tokens, const float* x, float* out);
    // Adds to out, where the other parts overwrite it.
    void run_moe(const Machine& machine, const MoeLayer& layer, int64_t tokens, const float* x, float* out);

    std::mutex mutex_;
    Buffer normed_, block_out_, q_, q_latent_, k_, v_, mixed_, inner_, router_weights_, draft_states_, draft_inputs_, draft_logits_;
    std::vector<int32_t> expert_ids_;
    std::vector<int64_t> new_slots_;
};

}  // namespace deepground
