// What libtorch has no C entry for.

#include <ATen/ATen.h>
#include <ATen/Context.h>

extern "C" {

// Whether matrices of 32-bit floats are multiplied with 10 bits of mantissa on CUDA.
void cmd_allow_tf32(bool allow) noexcept {
  try {
    at::globalContext().setAllowTF32CuBLAS(allow);
    at::globalContext().setAllowTF32CuDNN(allow);
  } catch (...) {
  }
}

// The tensor in memory from which a device copies by itself, or null.
void* cmd_pinned(const void* tensor) noexcept {
  try {
    const auto& host = *static_cast<const at::Tensor*>(tensor);
    return new at::Tensor(host.is_pinned() ? host : host.pin_memory());
  } catch (...) {
    return nullptr;
  }
}

} // extern "C"
