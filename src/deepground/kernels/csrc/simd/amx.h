// AMX tiles, written as the instructions themselves: gcc 12 drops stores to a tile configuration that it thinks nobody
// reads, and with intrinsics the compiler's flags would decide what the other code of the unit may use.
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
    void configure(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory"); }
    // Tiles that are in use make every switch to another thread dearer.
    void release() { __asm__ volatile("tilerelease" : : : "memory"); }
    template <int kTile>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
    }
    template <int kTile>
    void load(const void* p, int64_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
    }
    template <int kTile>
    void store(void* p, int64_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
    }
    // kSum += kRows x kColumns, of BF16 pairs.
    template <int kSum, int kRows, int kColumns>
    void dot() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kRows), "i"(kColumns));
    }
};

}  // namespace
}  // namespace deepground
