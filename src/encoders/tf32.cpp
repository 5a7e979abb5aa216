// Whether matrices of 32-bit floats are multiplied with 10 bits of mantissa on CUDA. libtorch has no C entry for it.

#include <ATen/Context.h>

extern "C" void cmd_allow_tf32(bool allow) noexcept {
  try {
    at::globalContext().setAllowTF32CuBLAS(allow);
    at::globalContext().setAllowTF32CuDNN(allow);
  } catch (...) {
  }
}
