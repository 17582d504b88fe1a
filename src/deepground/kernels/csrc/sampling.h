// Drawing tokens from logits, by rows over all threads; `engine.sampler` says what is drawn and why.
#pragma once

#include <stdint.h>

#include "ops.h"

namespace deepground {

// One draw. Order of the filters: temperature, top-k, top-p, min-p, each on what the former left over.
struct DrawOrder {
    int64_t row = 0;
    float temperature = 1;  // above 0
    int64_t top_k = 0;      // 0: all
    double top_p = 1;       // 1 and more: all
    double min_p = 0;       // share of the most likely token's probability
    double number = 0;      // in [0, 1): where in the cumulative distribution
};

// ids[i]: the token of orders[i]. Tokens are put in the order of their likelihood where there is a top-k or top-p, else in
// their own; the token is the one at which the cumulative weight passes number * total. logits: (rows, vocab); every row that
// is drawn from has a finite maximum. A row's token depends on the row and its order alone.
void draw_tokens(const Machine& machine, const float* logits, int64_t vocab, const DrawOrder* orders, int64_t count, int64_t* ids);

}  // namespace deepground
