// AMX tiles in AVX-512, bit for bit as documented, so that the kernels over tiles are tested on processors without.
// Source: Intel SDM vol. 2, TDPBF16PS: first and second members of the pairs are summed apart, each in order with
// fused multiply-adds, then their sum is added to the tile; to nearest even; subnormal numbers are zero, going in
// and coming out. Included after simd/avx512_bf16_emulated.h.
#pragma once
#include <stdint.h>

namespace deepground {
namespace {

// How a tile configuration lies in memory. Source: Intel SDM vol. 1, section 18.2 (palette 1).
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

class Tiles {
  public:
    // What the instruction refuses with a fault ends the program here too.
    void configure(const TileShapes& shapes) {
        require(shapes.palette == 1 && shapes.start_row == 0);
        for (int i = 0; i < 16; ++i)
            require(i < 8 ? shapes.rows[i] <= 16 && shapes.row_bytes[i] <= 64 && (shapes.rows[i] == 0) == (shapes.row_bytes[i] == 0)
                          : shapes.rows[i] == 0 && shapes.row_bytes[i] == 0);
        shapes_ = shapes;
        configured_ = true;
        __builtin_memset(data_, 0, sizeof data_);
    }
    void release() { configured_ = false; }
    template <int kTile>
    void zero() {
        require_tile(kTile);
        __builtin_memset(data_[kTile], 0, sizeof data_[kTile]);
    }
    template <int kTile>
    void load(const void* p, int64_t stride) {
        require_tile(kTile);
        __builtin_memset(data_[kTile], 0, sizeof data_[kTile]);
        for (int r = 0; r < shapes_.rows[kTile]; ++r)
            __builtin_memcpy(data_[kTile][r], static_cast<const char*>(p) + r * stride, shapes_.row_bytes[kTile]);
    }
    template <int kTile>
    void store(void* p, int64_t stride) {
        require_tile(kTile);
        for (int r = 0; r < shapes_.rows[kTile]; ++r)
            __builtin_memcpy(static_cast<char*>(p) + r * stride, data_[kTile][r], shapes_.row_bytes[kTile]);
    }
    template <int kSum, int kRows, int kColumns>
    void dot() {
        require_tile(kSum);
        require(shapes_.rows[kSum] == shapes_.rows[kRows] && shapes_.row_bytes[kSum] == shapes_.row_bytes[kColumns] &&
                shapes_.row_bytes[kRows] == 4 * shapes_.rows[kColumns]);
        for (int r = 0; r < shapes_.rows[kSum]; ++r) {
            __m512 first = _mm512_setzero_ps(), second = _mm512_setzero_ps();
            for (int k = 0; k < shapes_.rows[kColumns]; ++k) {
                const __m512i x = broadcast_line(reinterpret_cast<const uint16_t*>(data_[kRows][r]) + 2 * k).v;
                const __m512i w = _mm512_load_si512(data_[kColumns][k]);
                first = fma_flushed(first_of_pairs(x), first_of_pairs(w), first);
                second = fma_flushed(second_of_pairs(x), second_of_pairs(w), second);
            }
            const __m512 products = flush_subnormal(_mm512_add_ps(first, second));
            const __m512 sum = flush_subnormal(_mm512_load_ps(data_[kSum][r]));
            _mm512_store_ps(data_[kSum][r], flush_subnormal(_mm512_add_ps(sum, products)));
        }
    }

  private:
    static void require(bool kept) {
        if (!kept) __builtin_trap();
    }
    void require_tile(int tile) const { require(configured_ && shapes_.rows[tile] != 0); }

    alignas(64) uint8_t data_[8][16][64];
    TileShapes shapes_;
    bool configured_ = false;
};

}  // namespace
}  // namespace deepground
