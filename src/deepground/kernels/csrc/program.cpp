#include "program.h"

#include <algorithm>
#include <cstring>

namespace deepground {
namespace {

// Fewer values than this are dealt with by the calling thread: waking the others would take longer.
constexpr int64_t kSerialValues = 1 << 15;

// body(row) for all rows, over the pool where there is enough to do.
template <typename Body>
void for_rows(const Machine& machine, int64_t rows, int64_t width, const Body& body) {
    if (rows * width <= kSerialValues) {
        for (int64_t row = 0; row < rows; ++row) body(row);
        return;
    }
    machine.pool->split(rows, [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) body(row);
    });
}

void add_bias(const LinearWeights& linear, const ElementwiseKernels& ops, float* row) {
    if (linear.bias != nullptr) ops.add_scaled(linear.bias, 1.0f, linear.w->n, row);
}

// A row into a cache, in the cache's number format.
void write_cache(const CacheView& cache, int64_t slot, int64_t offset, const float* values, int64_t count,
                 const ElementwiseKernels& ops) {
    const int64_t at = slot * cache.width + offset;
    if (cache.bf16) ops.float_to_bf16(values, count, static_cast<uint16_t*>(const_cast<void*>(cache.data)) + at);
    else std::copy(values, values + count, static_cast<float*>(const_cast<void*>(cache.data)) + at);
}

}  // namespace

float* Program::Buffer::get(int64_t floats) {
    if (size < floats) {
        data.reset(new float[static_cast<size_t>(floats)]);
        size = floats;
    }
    return data.get();
}

void Program::forward(const Machine& machine, const Pass& pass, float* x) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < layers.size(); ++i) run_layer(machine, pass, layers[i], pass.caches[i], x);
    const auto& ops = machine.kernels->elementwise;
    for_rows(machine, pass.tokens, hidden_size, [&](int64_t t) {
        ops.rms_norm(x + t * hidden_size, norm, eps, hidden_size, x + t * hidden_size);
    });
}

void Program::mtp_forward(const Machine& machine, const Pass& pass, int depth, const float* hidden, float* x) {
    const std::lock_guard<std::mutex> lock(mutex_);
    run_mtp(machine, pass, depth, hidden, x);
}

void Program::mtp_draft(const Machine& machine, const Pass& pass, int depth, const float* hidden, float* x, const void* embedding,
                        bool bf16, float least, std::vector<DraftOrder>& orders) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto& ops = machine.kernels->elementwise;
    const int64_t width = hidden_size, vocab = head.w->n, count = static_cast<int64_t>(pass.spans.size());
    float* states = draft_states_.get(count * width);
    float* inputs = draft_inputs_.get(count * width);
    float* logits_rows = draft_logits_.get(count * vocab);
    const auto embed = [&](int64_t id, float* out) {
        if (bf16) ops.bf16_to_float(static_cast<const uint16_t*>(embedding) + id * width, width, out);
        else std::copy_n(static_cast<const float*>(embedding) + id * width, width, out);
    };
    run_mtp(machine, pass, depth, hidden, x);
    std::vector<int64_t> active, positions;
    for (int64_t n = 0; n < count; ++n) {
        const int64_t last = pass.spans[static_cast<size_t>(n)].start + pass.spans[static_cast<size_t>(n)].length - 1;
        std::copy_n(x + last * width, width, states + n * width);
        active.push_back(n);
        positions.push_back(pass.positions[last]);
    }
    std::vector<float> confidence(static_cast<size_t>(count), 1.0f);
    Pass next;
    next.cos = pass.cos;
    next.sin = pass.sin;
    next.caches = pass.caches;
    while (true) {
        logits(machine, states, static_cast<int64_t>(active.size()), logits_rows);
        int64_t kept = 0;
        next.spans.clear();
        for (size_t row = 0; row < active.size(); ++row) {
            const int64_t n = active[row];
            DraftOrder& order = orders[static_cast<size_t>(n)];
            float share = 0;
            const int64_t id = ops.most_likely(logits_rows + static_cast<int64_t>(row) * vocab, vocab, &share);
            confidence[static_cast<size_t>(n)] *= share;
            if (!(confidence[static_cast<size_t>(n)] >= least)) continue;  // nor for NaN
            order.ids.push_back(id);
            if (static_cast<int64_t>(order.ids.size()) == order.wanted) continue;
            const Span& span = pass.spans[static_cast<size_t>(n)];
            const int64_t made = static_cast<int64_t>(order.ids.size());
            std::copy_n(states + static_cast<int64_t>(row) * width, width, states + kept * width);
            embed(id, inputs + kept * width);
            next.spans.push_back({kept, 1, span.context + span.length + made - 1, span.slots});
            positions[static_cast<size_t>(kept)] = positions[row] + 1;
            active[static_cast<size_t>(kept++)] = n;
        }
        if (kept == 0) return;
        active.resize(static_cast<size_t>(kept));
        next.tokens = kept;
        next.positions = positions.data();
        run_mtp(machine, next, depth, states, inputs);
        std::swap(states, inputs);
    }
}

void Program::run_mtp(const Machine& machine, const Pass& pass, int depth, const float* hidden, float* x) {
    const MtpLayer& mtp = mtp_layers[static_cast<size_t>(depth)];
    const auto& ops = machine.kernels->elementwise;
    const int64_t width = hidden_size;
    float* joined = normed_.get(pass.tokens * 2 * width);
    for_rows(machine, pass.tokens, 2 * width, [&](int64_t t) {
        ops.rms_norm(x + t * width, mtp.enorm, eps, width, joined + t * 2 * width);
        ops.rms_norm(hidden + t * width, mtp.hnorm, eps, width, joined + (t * 2 + 1) * width);
    });
    const LinearTask task{mtp.eh_proj.w, x, width};
    linear(machine, &task, 1, joined, 2 * width, pass.tokens);
    run_layer(machine, pass, mtp.layer, pass.caches[layers.size() + static_cast<size_t>(depth)], x);
    for_rows(machine, pass.tokens, width, [&](int64_t t) {
        ops.rms_norm(x + t * width, mtp.head_norm, eps, width, x + t * width);
    });
}

void Program::logits(const Machine& machine, const float* hidden, int64_t rows, float* out) {
    const LinearTask task{head.w, out, head.w->n};
    linear(machine, &task, 1, hidden, hidden_size, rows);
}

void Program::run_layer(const Machine& machine, const Pass& pass, const Layer& layer, const LayerCache& cache, float* x) {
    const auto& ops = machine.kernels->elementwise;
    const int64_t tokens = pass.tokens, width = hidden_size;
    float* normed = normed_.get(tokens * width);
    float* out = block_out_.get(tokens * width);
    const auto norm_rows = [&](const float* weight) {
        for_rows(machine, tokens, width, [&](int64_t t) { ops.rms_norm(x + t * width, weight, eps, width, normed + t * width); });
    };
    const auto add_rows = [&] {
        for_rows(machine, tokens, width, [&](int64_t t) { ops.add_scaled(out + t * width, 1.0f, width, x + t * width); });
    };
    norm_rows(layer.input_norm);
    if (layer.is_mla) run_mla(machine, pass, layer.mla, cache, normed, out);
    else run_gqa(machine, pass, layer.gqa, cache, normed, out);
    add_rows();
    norm_rows(layer.post_norm);
    if (layer.is_moe) {
        run_moe(machine, layer.moe, tokens, normed, x);
        return;
    }
    run_dense(machine, layer.dense, tokens, normed, out);
    add_rows();
}

void Program::run_gqa(const Machine& machine, const Pass& pass, const GqaLayer& layer, const LayerCache& cache, const float* x,
                      float* out) {
    const auto& ops = machine.kernels->elementwise;
    const int64_t tokens = pass.tokens, head = layer.head_dim, pairs = layer.rotary_dim / 2;
    const int64_t q_width = layer.heads * head, kv_width = layer.kv_heads * head;
    float *q = q_.get(tokens * q_width), *k = k_.get(tokens * kv_width), *v = v_.get(tokens * kv_width);
    const LinearTask tasks[] = {{layer.q.w, q, q_width}, {layer.k.w, k, kv_width}, {layer.v.w, v, kv_width}};
    linear(machine, tasks, 3, x, hidden_size, tokens);

    const auto heads = [&](float* row, int count, const float* norm, int64_t position) {
        const float *cos = pass.cos + position * pairs, *sin = pass.sin + position * pairs;
        for (int h = 0; h < count; ++h) {
            float* values = row + h * head;
            if (norm != nullptr) ops.rms_norm(values, norm, eps, head, values);
            ops.rope(values, cos, sin, layer.rotary_dim, interleaved);
        }
    };
    new_slots_.resize(static_cast<size_t>(tokens));
    for (const Span& span : pass.spans)
        std::copy(span.slots + span.context, span.slots + span.context + span.length, new_slots_.begin() + span.start);
    for_rows(machine, tokens, q_width + 2 * kv_width, [&](int64_t t) {
        const int64_t slot = new_slots_[static_cast<size_t>(t)];
        float *q_row = q + t * q_width, *k_row = k + t * kv_width, *v_row = v + t * kv_width;
        add_bias(layer.q, ops, q_row);
        add_bias(layer.k, ops, k_row);
        add_bias(layer.v, ops, v_row);
        heads(q_row, layer.heads, layer.q_norm, pass.positions[t]);
        heads(k_row, layer.kv_heads, layer.k_norm, pass.positions[t]);
        write_cache(cache.first, slot, 0, k_row, kv_width, ops);
        write_cache(cache.second, slot, 0, v_row, kv_width, ops);
    });

    float* mixed = mixed_.get(tokens * q_width);
    gqa_attention(machine, pass.spans.data(), static_cast<int64_t>(pass.spans.size()), q, q_width, cache.first, cache.second,
                  layer.heads, layer.kv_heads, layer.head_dim, layer.head_dim, layer.scale, mixed, q_width);
    const LinearTask task{layer.o.w, out, hidden_size};
    linear(machine, &task, 1, mixed, q_width, tokens);
    if (layer.o.bias != nullptr)
        for_rows(machine, tokens, hidden_size, [&](int64_t t) { add_bias(layer.o, ops, out + t * hidden_size); });
}

void Program::run_mla(const Machine& machine, const Pass& pass, const MlaLayer& layer, const LayerCache& cache, const float* x,
                      float* out) {
    const auto& ops = machine.kernels->elementwise;
    const MlaWeights& mla = layer.weights;
    const int64_t tokens = pass.tokens, lora = mla.kv_lora, entry = lora + mla.rope, pairs = mla.rope / 2;
    const int64_t head = mla.nope + mla.rope, q_width = mla.heads * head, v_width = mla.heads * mla.v_dim;
    float *q = q_.get(tokens * q_width), *latents = k_.get(tokens * entry);
    if (layer.q_a.w == nullptr) {
        const LinearTask tasks[] = {{layer.q.w, q, q_width}, {layer.kv_a.w, latents, entry}};
        linear(machine, tasks, 2, x, hidden_size, tokens);
    } else {
        const int64_t rank = layer.q_a.w->n;
        float* q_latent = q_latent_.get(tokens * rank);
        const LinearTask tasks[] = {{layer.q_a.w, q_latent, rank}, {layer.kv_a.w, latents, entry}};
        linear(machine, tasks, 2, x, hidden_size, tokens);
        for_rows(machine, tokens, rank, [&](int64_t t) {
            float* row = q_latent + t * rank;
            add_bias(layer.q_a, ops, row);
            ops.rms_norm(row, layer.q_a_norm, layer.latent_eps, rank, row);
        });
        const LinearTask task{layer.q.w, q, q_width};
        linear(machine, &task, 1, q_latent, rank, tokens);
    }

    new_slots_.resize(static_cast<size_t>(tokens));
    for (const Span& span : pass.spans)
        std::copy(span.slots + span.context, span.slots + span.context + span.length, new_slots_.begin() + span.start);
    for_rows(machine, tokens, q_width + entry, [&](int64_t t) {
        const float *cos = pass.cos + pass.positions[t] * pairs, *sin = pass.sin + pass.positions[t] * pairs;
        for (int h = 0; h < mla.heads; ++h) ops.rope(q + t * q_width + h * head + mla.nope, cos, sin, mla.rope, interleaved);
        float* row = latents + t * entry;
        add_bias(layer.kv_a, ops, row);
        ops.rms_norm(row, layer.kv_a_norm, layer.latent_eps, lora, row);
        ops.rope(row + lora, cos, sin, mla.rope, interleaved);
        write_cache(cache.first, new_slots_[static_cast<size_t>(t)], 0, row, entry, ops);
    });

    float* mixed = mixed_.get(tokens * v_width);
    mla_attention(machine, pass.spans.data(), static_cast<int64_t>(pass.spans.size()), mla, q, q_width, cache.first, layer.scale,
                  mixed, v_width);
    const LinearTask task{layer.o.w, out, hidden_size};
    linear(machine, &task, 1, mixed, v_width, tokens);
    if (layer.o.bias != nullptr)
        for_rows(machine, tokens, hidden_size, [&](int64_t t) { add_bias(layer.o, ops, out + t * hidden_size); });
}

void Program::run_dense(const Machine& machine, const DenseLayer& layer, int64_t tokens, const float* x, float* out) {
    const int64_t inner = layer.gate->n;
    float* act = inner_.get(tokens * inner);
    gate_up(machine, *layer.gate, *layer.up, x, hidden_size, tokens, act, inner);
    const LinearTask task{layer.down, out, hidden_size};
    linear(machine, &task, 1, act, inner, tokens);
}

void Program::run_moe(const Machine& machine, const MoeLayer& layer, int64_t tokens, const float* x, float* out) {
    const int64_t top_k = layer.router.top_k;
    expert_ids_.resize(static_cast<size_t>(tokens * top_k));
    float* weights = router_weights_.get(tokens * top_k);
    route(machine, layer.router, x, hidden_size, tokens, expert_ids_.data(), weights);
    moe_experts(machine, *layer.experts, layer.shared, x, hidden_size, tokens, expert_ids_.data(), weights, top_k, out, hidden_size,
                /*add=*/true);
}

}  // namespace deepground
