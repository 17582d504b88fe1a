#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace deepground {
namespace {

// Top-p looks at so many of the most likely tokens, then at more, and at all only where these fall short of p.
constexpr int64_t kNucleus[] = {64, 1024};

struct Candidate {
    float logit;
    int64_t id;
};

// One row of logits; blocks are runs of kDrawBlock tokens.
class Row {
  public:
    Row(const ElementwiseKernels& kernels, const float* logits, int64_t vocab, const DrawOrder& order)
        : logits_(logits), vocab_(vocab), order_(order), maxima_(static_cast<size_t>((vocab + kDrawBlock - 1) / kDrawBlock)),
          weights_(maxima_.size()) {
        kernels.block_maxima(logits, vocab, maxima_.data());
        best_ = *std::max_element(maxima_.begin(), maxima_.end());
        factor_ = 1.0f / std::max(order.temperature, 1e-6f);
        if (order.top_k > 0 && order.top_k < vocab) return;
        kernels.block_weights(logits, vocab, best_, factor_, weights_.data());
        for (float weight : weights_) total_ += weight;
    }

    int64_t draw() {
        if (order_.top_k > 0 && order_.top_k < vocab_) {
            find_candidates(order_.top_k);
            total_ = candidate_mass();
            return draw_candidate();
        }
        if (order_.top_p >= 1) return draw_any();
        for (const int64_t count : kNucleus) {
            if (count >= vocab_) break;
            find_candidates(count);
            if (candidate_mass() >= order_.top_p * total_) return draw_candidate();
        }
        find_candidates(vocab_);
        return draw_candidate();
    }

  private:
    double weight(float logit) const { return std::exp(static_cast<double>(logit - best_) * factor_); }

    // The `count` most likely tokens, the likeliest first, of equals the one with the lower id; impossible ones are left out.
    void find_candidates(int64_t count) {
        float least = -std::numeric_limits<float>::infinity();
        if (count < static_cast<int64_t>(maxima_.size())) {
            // As many blocks have a token that is as likely as this, so the count most likely tokens are.
            std::vector<float> sorted = maxima_;
            std::nth_element(sorted.begin(), sorted.begin() + count - 1, sorted.end(), std::greater<float>());
            least = sorted[static_cast<size_t>(count - 1)];
        }
        candidates_.clear();
        for (size_t block = 0; block < maxima_.size(); ++block) {
            if (maxima_[block] < least) continue;
            const int64_t first = static_cast<int64_t>(block) * kDrawBlock, last = std::min(first + kDrawBlock, vocab_);
            for (int64_t id = first; id < last; ++id)
                if (logits_[id] >= least && logits_[id] > -std::numeric_limits<float>::infinity()) candidates_.push_back({logits_[id], id});
        }
        const auto likelier = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); };
        const int64_t kept = std::min(count, static_cast<int64_t>(candidates_.size()));
        std::partial_sort(candidates_.begin(), candidates_.begin() + kept, candidates_.end(), likelier);
        candidates_.resize(static_cast<size_t>(kept));
    }

    double candidate_mass() const {
        double mass = 0;
        for (const Candidate& candidate : candidates_) mass += weight(candidate.logit);
        return mass;
    }

    int64_t draw_candidate() const {
        size_t kept = 0;
        double mass = 0;
        for (; kept < candidates_.size(); ++kept) {
            const double next = weight(candidates_[kept].logit);
            // The first always stays.
            if (kept > 0 && ((order_.top_p < 1 && mass >= order_.top_p * total_) || next < order_.min_p)) break;
            mass += next;
        }
        const double wanted = order_.number * mass;
        double sum = 0;
        for (size_t i = 0; i < kept; ++i)
            if ((sum += weight(candidates_[i].logit)) > wanted) return candidates_[i].id;
        return candidates_[kept - 1].id;
    }

    int64_t draw_any() {
        if (order_.min_p > 0) {
            total_ = 0;
            for (size_t block = 0; block < weights_.size(); ++block) total_ += weights_[block] = static_cast<float>(likely_mass(block));
        }
        const double wanted = order_.number * total_;
        double sum = 0;
        size_t block = 0, last = 0;  // last: one that has some weight
        for (; block < weights_.size(); ++block) {
            if (weights_[block] > 0) last = block;
            if (sum + weights_[block] > wanted) break;
            sum += weights_[block];
        }
        if (block == weights_.size()) block = last;
        const int64_t first = static_cast<int64_t>(block) * kDrawBlock, end = std::min(first + kDrawBlock, vocab_);
        int64_t chosen = -1;
        for (int64_t id = first; id < end && (chosen < 0 || sum <= wanted); ++id) {
            const double w = weight(logits_[id]);
            if (w <= 0 || w < order_.min_p) continue;
            chosen = id;
            sum += w;
        }
        return chosen;
    }

    double likely_mass(size_t block) const {
        const int64_t first = static_cast<int64_t>(block) * kDrawBlock, end = std::min(first + kDrawBlock, vocab_);
        double mass = 0;
        if (weight(maxima_[block]) < order_.min_p) return mass;
        for (int64_t id = first; id < end; ++id) {
            const double w = weight(logits_[id]);
            if (w >= order_.min_p) mass += w;
        }
        return mass;
    }

    const float* logits_;
    int64_t vocab_;
    const DrawOrder& order_;
    std::vector<float> maxima_, weights_;  // by block; weights in units of the best token's
    std::vector<Candidate> candidates_;
    float best_ = 0, factor_ = 1;
    double total_ = 0;
};

}  // namespace

void draw_tokens(const Machine& machine, const float* logits, int64_t vocab, const DrawOrder* orders, int64_t count, int64_t* ids) {
    machine.pool->share(count, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
            ids[i] = Row(machine.kernels->elementwise, logits + orders[i].row * vocab, vocab, orders[i]).draw();
    });
}

}  // namespace deepground
