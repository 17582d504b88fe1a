// What the files that bind kernels to Python share. Arguments from Python are addresses and sizes that
// kernels/native.py has checked.
#pragma once

#include <nanobind/nanobind.h>
#include <stdint.h>

#include <string>

#include "ops.h"

namespace deepground {

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// The kernels and threads in use; throws where `start` was not called.
Machine machine();

// Throws std::invalid_argument.
Format format_by_name(const std::string& name);

// A matrix and the memory under it, packed for the instruction set in use.
class OwnedMatrix {
  public:
    OwnedMatrix(const std::string& format, int64_t n, int64_t k);
    ~OwnedMatrix();
    OwnedMatrix(const OwnedMatrix&) = delete;
    OwnedMatrix& operator=(const OwnedMatrix&) = delete;

    int64_t bytes() const { return bytes_; }
    Matrix w;

  private:
    uint8_t* memory_ = nullptr;
    int64_t bytes_ = 0;
};

// Each adds its part to the module.
void bind_linear(nanobind::module_& m);
void bind_attention(nanobind::module_& m);
void bind_moe(nanobind::module_& m);
void bind_expert_store(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);

}  // namespace deepground
