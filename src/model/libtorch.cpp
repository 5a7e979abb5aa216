// What libtorch has no C entry for.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <torch/headeronly/version.h>

#include <cstdlib>
#include <cstring>

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

// One update of Adam with L2 weight decay in a single pass over all values; the gradient is multiplied with `scale` on the way. Returns
// null, or why it could not be made, to be given back to `cmd_free`.
char* cmd_adam(void* values, void* gradient, void* exp_avg, void* exp_avg_sq, int64_t step, double lr, double beta1, double beta2,
               double weight_decay, double eps, double scale) noexcept {
  const auto tensor = [](void* pointer) { return *static_cast<at::Tensor*>(pointer); };
  try {
    const at::NoGradGuard guard;
    const auto number = [&](double value) { return at::full({1}, value, tensor(gradient).options()); };
    at::_fused_adam_({tensor(values)}, {tensor(gradient)}, {tensor(exp_avg)}, {tensor(exp_avg_sq)}, {}, {number(static_cast<double>(step))},
                     lr, beta1, beta2, weight_decay, eps, false, false,
                     scale == 1 ? std::nullopt : std::make_optional(number(1 / scale)));
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("Adam could not be updated");
  }
}

// The version that this was compiled against, for instance 2.13.0.
const char* cmd_libtorch_version() noexcept { return TORCH_VERSION; }

void cmd_free(char* text) noexcept { std::free(text); }

} // extern "C"
