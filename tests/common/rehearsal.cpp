// A CUDA device that is not there: two devices whose memory is the machine's and whose kernels run on the CPU, under real CUDA's rules about
// which tensors may meet. Preloaded into the program (LD_PRELOAD) with a libtorch whose own CUDA part is not loaded. At the end it says how
// many kernels were launched, copies made each way and reads waited for; with REHEARSAL_OPS set also which.
//
// It cannot show time, the memory of a real allocator, streams, kernels that CUDA lacks, or NCCL.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/set_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <cstring>

namespace {
using namespace at;
constexpr int kDevices = 2;
thread_local DeviceIndex current = 0;
thread_local bool inside = false;  // the fallback's own copies are no copies of the program
std::atomic<long> kernels{0}, h2d{0}, d2h{0}, d2d{0}, syncs{0}, bytes_up{0}, bytes_down{0}, mem{0}, peak{0};
std::mutex lock; std::map<std::string, long> ops, sync_at;
bool verbose() { static bool v = std::getenv("REHEARSAL_OPS") != nullptr; return v; }

struct Alloc final : c10::Allocator {
  DataPtr allocate(size_t n) override {
    auto* b = static_cast<char*>(std::aligned_alloc(64, ((n + 63) / 64 + 1) * 64));
    *reinterpret_cast<size_t*>(b) = n; long now = mem += n; long p = peak; while (now > p && !peak.compare_exchange_weak(p, now)) {}
    return {b + 64, b, &drop, Device(kCUDA, current)};
  }
  static void drop(void* p) { if (p) { mem -= *static_cast<size_t*>(p); std::free(p); } }
  DeleterFnPtr raw_deleter() const override { return &drop; }
  void copy_data(void* d, const void* s, size_t n) const override { default_copy_data(d, s, n); }
};
Alloc alloc;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return kCUDA; }
  Device exchangeDevice(Device d) const override { Device old(kCUDA, current); current = d.index(); return old; }
  Device getDevice() const override { return Device(kCUDA, current); }
  void setDevice(Device d) const override { current = d.index(); }
  void uncheckedSetDevice(Device d) const noexcept override { current = d.index(); }
  Stream getStream(Device d) const override { return Stream(Stream::DEFAULT, d); }
  Stream getDefaultStream(Device d) const override { return Stream(Stream::DEFAULT, d); }
  Stream exchangeStream(Stream s) const override { return Stream(Stream::DEFAULT, s.device()); }
  DeviceIndex deviceCount() const noexcept override { return kDevices; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override { syncs++; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};

struct Hooks final : CUDAHooksInterface {
  explicit Hooks(CUDAHooksArgs = {}) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return kDevices; }
  int getNumGPUs() const override { return kDevices; }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex d) const override { current = d; }
  DeviceIndex exchangeDevice(DeviceIndex d) const override { auto o = current; current = d; return o; }
  DeviceIndex maybeExchangeDevice(DeviceIndex d) const override { auto o = current; if (d >= 0) current = d; return o; }
  bool isPinnedPtr(const void*) const override { return false; }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(kCPU); }
  Allocator* getCUDADeviceAllocator() const override { return &alloc; }
  Device getDeviceFromPtr(void*) const override { return Device(kCUDA, 0); }
  const Generator& getDefaultGenerator(DeviceIndex) const override { static Generator g = at::detail::createCPUGenerator(); return g; }
  Generator getNewGenerator(DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  void deviceSynchronize(DeviceIndex) const override { syncs++; }
};

void where(const char* what) { if (verbose()) { std::lock_guard<std::mutex> g(lock); sync_at[what]++; } }

Tensor empty_mf(IntArrayRef size, std::optional<ScalarType> t, std::optional<Layout>, std::optional<Device> d, std::optional<bool>, std::optional<MemoryFormat> f) {
  auto dev = d.value_or(Device(kCUDA, current)); if (!dev.has_index()) dev = Device(kCUDA, current);
  c10::DeviceGuard g(dev);
  return at::detail::empty_generic(size, &alloc, DispatchKeySet(DispatchKey::CUDA), t.value_or(kFloat), f);
}
Tensor empty_st(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> t, std::optional<Layout>, std::optional<Device> d, std::optional<bool>) {
  auto dev = d.value_or(Device(kCUDA, current)); if (!dev.has_index()) dev = Device(kCUDA, current);
  c10::DeviceGuard g(dev);
  return at::detail::empty_strided_generic(size, stride, &alloc, DispatchKeySet(DispatchKey::CUDA), t.value_or(kFloat));
}
// A CPU tensor over the same memory.
Tensor as_cpu(const Tensor& x) {
  if (!x.is_cuda()) return x;
  return at::from_blob(x.data_ptr(), x.sizes(), x.strides(), TensorOptions().dtype(x.scalar_type()).device(kCPU));
}
Tensor copy_from(const Tensor& self, const Tensor& dst, bool non_blocking) {
  if (inside) { as_cpu(dst).copy_(as_cpu(self)); return dst; }
  bool up = dst.is_cuda() && !self.is_cuda(), down = self.is_cuda() && !dst.is_cuda();
  if (up) { h2d++; bytes_up += dst.nbytes(); } else if (down) { d2h++; syncs += !non_blocking; bytes_down += self.nbytes(); where("copy to host"); } else d2d++;
  as_cpu(dst).copy_(as_cpu(self)); return dst;
}
Tensor& copy_of(Tensor& dst, const Tensor& src, bool non_blocking) {
  if (!dst.is_cuda() && !src.is_cuda()) { as_cpu(dst).copy_(src); return dst; }
  copy_from(src, dst, non_blocking); return dst;
}
Scalar item(const Tensor& x) { d2h++; syncs++; bytes_down += x.element_size(); where("item"); return as_cpu(x).item(); }
const Tensor& resize_of(const Tensor& s, SymIntArrayRef n, std::optional<MemoryFormat>) {
  c10::DeviceGuard g(s.device()); auto size = C10_AS_INTARRAYREF_SLOW(n); auto* impl = s.unsafeGetTensorImpl();
  int64_t count = 1; for (auto v : size) count *= v; size_t need = (count + impl->storage_offset()) * s.element_size();
  if (s.storage().nbytes() < need) { auto fresh = alloc.allocate(need); std::memcpy(fresh.get(), s.storage().data(), s.storage().nbytes()); s.storage().set_data_ptr_noswap(std::move(fresh)); s.storage().set_nbytes(need); }
  impl->set_sizes_contiguous(size); return s;
}
Tensor copy_from_resize(const Tensor& self, const Tensor& dst) { if (dst.sizes() != self.sizes()) resize_of(dst, c10::fromIntArrayRefSlow(self.sizes()), std::nullopt); copy_from(self, dst, false); return dst; }
Tensor as_str(const Tensor& s, SymIntArrayRef n, SymIntArrayRef st, std::optional<SymInt> o) {
  return at::native::as_strided_tensorimpl(s, C10_AS_INTARRAYREF_SLOW(n), C10_AS_INTARRAYREF_SLOW(st), o.has_value() ? std::optional<int64_t>(o->guard_int(__FILE__, __LINE__)) : std::nullopt);
}
Tensor view_of(const Tensor& s, SymIntArrayRef n) { return at::native::view(s, C10_AS_INTARRAYREF_SLOW(n)); }
Tensor reshape_alias(const Tensor& s, SymIntArrayRef n, SymIntArrayRef st) { return at::native::_reshape_alias(s, C10_AS_INTARRAYREF_SLOW(n), C10_AS_INTARRAYREF_SLOW(st)); }
Tensor unfold_of(const Tensor& s, int64_t d, int64_t n, int64_t st) { return at::native::unfold(s, d, n, st); }
Tensor& zero_of(Tensor& s) { kernels++; as_cpu(s).zero_(); return s; }

// Real CUDA lets a kernel take CPU tensors only as scalars (0-dim), and as indices of index/index_put.
void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string name = op.schema().name(); const auto& schema = op.schema();
  bool indexing = name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
  auto args = torch::jit::last(*stack, schema.arguments().size()); std::optional<Device> device;
  auto meet = [&](const Tensor& x) {
    if (!x.defined()) return;
    if (x.is_cuda()) { if (device && *device != x.device()) TORCH_CHECK(false, "Expected all tensors to be on the same device, but got ", *device, " and ", x.device(), " in ", name); device = x.device(); }
  };
  for (const auto& a : args) { if (a.isTensor()) meet(a.toTensor()); else if (a.isTensorList()) for (const Tensor& t : a.toTensorVector()) meet(t); }
  if (device) for (const auto& a : args) {
    if (a.isTensor() && a.toTensor().defined() && !a.toTensor().is_cuda() && a.toTensor().dim() > 0 && !indexing)
      TORCH_CHECK(false, "Expected all tensors to be on the same device, but found cuda and cpu (", a.toTensor().sizes(), ") in ", name);
    if (a.isTensorList() && !indexing) for (const Tensor& t : a.toTensorVector()) TORCH_CHECK(!t.defined() || t.is_cuda() || t.dim() == 0, "Expected all tensors to be on the same device, but found cuda and cpu in ", name);
  }
  kernels++;
  static const std::set<std::string> syncing = {"aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal", "aten::unique", "aten::_unique2", "aten::repeat_interleave"};
  if (syncing.count(name)) { syncs++; where(name.c_str()); }
  if (verbose()) { std::lock_guard<std::mutex> g(lock); ops[name]++; }
  // The fallback leaves indices where they are.
  if (indexing) for (size_t i = stack->size() - schema.arguments().size(); i < stack->size(); i++) if ((*stack)[i].isList()) {
    c10::List<std::optional<Tensor>> here;
    for (const c10::IValue& t : (*stack)[i].toListRef()) here.push_back(t.isTensor() && t.toTensor().defined() ? std::optional<Tensor>(as_cpu(t.toTensor())) : std::nullopt);
    (*stack)[i] = here;
  }
  struct In { In() { inside = true; } ~In() { inside = false; } } in;
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}
struct Report { ~Report() {
  std::fprintf(stderr, "rehearsal: kernels %ld, host->device %ld (%.1f MB), device->host %ld (%.1f MB), synchronisations %ld, device->device %ld, peak %.1f MB\n", kernels.load(), h2d.load(), bytes_up / 1e6, d2h.load(), bytes_down / 1e6, syncs.load(), d2d.load(), peak / 1e6);
  if (verbose()) { for (auto& [n, c] : sync_at) std::fprintf(stderr, "rehearsal: sync %s %ld\n", n.c_str(), c); for (auto& [n, c] : ops) std::fprintf(stderr, "rehearsal: op %s %ld\n", n.c_str(), c); }
} } report;
} // namespace

C10_REGISTER_GUARD_IMPL(CUDA, Guard);
namespace at { C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks); }
static bool installed = [] { c10::SetAllocator(c10::kCUDA, &alloc, 100); return true; }();
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty_mf); m.impl("empty_strided", &empty_st); m.impl("_copy_from", &copy_from); m.impl("copy_", &copy_of); m.impl("_copy_from_and_resize", &copy_from_resize);
  m.impl("_local_scalar_dense", &item); m.impl("resize_", &resize_of); m.impl("as_strided", &as_str); m.impl("view", &view_of); m.impl("_reshape_alias", &reshape_alias); m.impl("unfold", &unfold_of); m.impl("zero_", &zero_of);
}
