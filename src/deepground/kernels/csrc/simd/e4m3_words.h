// What E4M3 codes are as BF16 numbers. Included into a namespace of one translation unit.
//
// A BF16 dot product treats subnormal numbers as zero, and E4M3's subnormal numbers must not be lost: every code
// becomes the BF16 number of its value, which is always a normal one.
#pragma once
#include <stdint.h>

namespace deepground {
namespace {

// The BF16 number of every E4M3 code without its sign.
struct E4m3Words {
    alignas(64) uint16_t word[128];
    constexpr E4m3Words() : word() {
        for (int code = 1; code < 128; ++code) {
            if (code >= 8) {
                word[code] = static_cast<uint16_t>((code << 4) + (120 << 7));
                continue;
            }
            int leading = 0;  // the code is a multiple of 2^-9
            while (code >> (leading + 1)) ++leading;
            word[code] = static_cast<uint16_t>(((118 + leading) << 7) | ((code << (7 - leading)) & 0x7f));
        }
    }
};
constexpr E4m3Words kE4m3Words;

}  // namespace
}  // namespace deepground
