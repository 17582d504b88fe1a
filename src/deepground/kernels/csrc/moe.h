// Mixture of experts: the router, and the sum of each token's chosen experts.
//
// Legend: T tokens, D model width, E experts, F inner width of an expert, K experts per token.
//
// The law is model/moe.py (Router) and kernels/reference.py (moe_experts). Sums run over a token's experts in
// ascending order of their ids, and each expert's products do not depend on how many tokens it serves, so that a
// token's result is the same alone and in every batch.
#pragma once

#include <stdint.h>

#include <vector>

#include "ops.h"

namespace deepground {

// A SwiGLU block: down (silu(gate x) * (up x)).
struct Expert {
    Matrix gate, up;  // (F, D)
    Matrix down;      // (D, F)
};

// The experts of one layer. A pass is: begin, then `next` until it returns 0, then `end`; one pass at a time.
class ExpertSet {
  public:
    struct Ready {
        int64_t position;  // among the ids that `begin` was given
        const Expert* expert;
    };

    virtual ~ExpertSet() = default;
    int64_t size() const { return size_; }
    int64_t hidden() const { return hidden_; }  // D
    int64_t width() const { return width_; }    // F

    // ids: the experts that the pass needs, ascending, each once; they stay valid until `end`.
    virtual void begin(const int32_t* ids, int64_t count) = 0;
    // Experts that are in memory and were not given before; waits for at least one. They stay there until the
    // following call. `ready` has room for all of the pass. 0: all have been given. May throw.
    virtual int64_t next(Ready* ready) = 0;
    virtual void end() noexcept = 0;

  protected:
    int64_t size_ = 0, hidden_ = 0, width_ = 0;
};

// Experts whose weights are all in memory, which somebody else owns.
class ResidentExperts : public ExpertSet {
  public:
    // Throws std::invalid_argument where shapes differ or there is none.
    explicit ResidentExperts(std::vector<Expert> experts);
    void begin(const int32_t* ids, int64_t count) override;
    int64_t next(Ready* ready) override;
    void end() noexcept override {}

  private:
    std::vector<Expert> experts_;
    const int32_t* ids_ = nullptr;
    int64_t left_ = 0;
};

// As model/config.py's MoeConfig; see model/moe.py for what each field does.
struct Router {
    Matrix gate;  // (E, D)
    int64_t top_k = 1, groups = 1, topk_groups = 1;
    bool sigmoid = false;   // else softmax
    bool top2_sum = false;  // a group's score; else its best expert's
    bool normalize = false;
    float scaling = 1.0f;
    std::vector<float> bias;  // (E), added for the choice alone; empty: none

    int64_t experts() const { return gate.n; }
    // Throws std::invalid_argument where the fields contradict each other.
    void check() const;
};

// Each token's experts, ascending (T, K), and their weights (T, K). x: (T, D). Of equal scores the lower id wins;
// torch.topk leaves that open.
void route(const Machine& machine, const Router& router, const float* x, int64_t ldx, int64_t m, int32_t* ids, float* weights);

// out (T, D) = sum over k of weights[t][k] * expert ids[t][k] of x[t], plus shared(x) where there is one; with `add`,
// out gains that. The order of addition: what `out` held (or zero), experts by ascending id, the shared one.
// A token's ids differ and are valid. x and out do not overlap.
void moe_experts(const Machine& machine, ExpertSet& experts, const Expert* shared, const float* x, int64_t ldx, int64_t m,
                 const int32_t* ids, const float* weights, int64_t top_k, float* out, int64_t ldo, bool add);

}  // namespace deepground
