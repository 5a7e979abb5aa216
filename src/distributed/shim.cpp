// C entries over PyTorch's own collectives (c10d). Each returns null or the text of an error, to be freed with c10d_free; none throws.

#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/cuda/nccl.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <c10/util/Logging.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <utility>

namespace {

using Store = c10::intrusive_ptr<c10d::Store>;

/// A group and the last collective that was begun in it.
struct Group {
  c10::intrusive_ptr<c10d::Backend> backend;
  c10::intrusive_ptr<c10d::Work> last;
};

char* copy(const std::string& text) {
  char* copied = static_cast<char*>(std::malloc(text.size() + 1));
  if (copied) std::memcpy(copied, text.c_str(), text.size() + 1);
  return copied;
}

template <typename Work>
char* guarded(Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const c10::Error& error) {
    return copy(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return copy(error.what());
  } catch (...) {
    return copy("an unknown error of libtorch");
  }
}

// Gloo's work is done then; of NCCL's the device waits, not the host.
void finish(Group& group, const c10::intrusive_ptr<c10d::Work>& work) {
  group.last = work;
  work->wait();
}

Group& group_of(void* group) {
  return *static_cast<Group*>(group);
}

at::Tensor& tensor_of(void* tensor) {
  return *static_cast<at::Tensor*>(tensor);
}

} // namespace

extern "C" {

char* c10d_store(const char* host, uint16_t port, bool serves, int listener, int64_t timeout_ms, void** store, uint16_t* bound) noexcept {
  return guarded([&] {
    // What c10d logs it also throws.
    if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3;
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves;
    options.waitWorkers = false;
    if (listener >= 0) options.masterListenFd = listener;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    *bound = tcp->getPort();
    *store = new Store(tcp);
  });
}

char* c10d_gloo(void* store, const char* prefix, const char* host, const char* interfaces, int rank, int size, int64_t timeout_ms, void** group) noexcept {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    std::istringstream names(interfaces);
    for (std::string name; std::getline(names, name, ',');) options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(name));
    if (*host) options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    if (options->devices.empty()) options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(prefix, *static_cast<Store*>(store));
    *group = new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, rank, size, options), {}};
  });
}

bool c10d_has_nccl() noexcept {
#ifdef USE_C10D_NCCL
  return true;
#else
  return false;
#endif
}

// NCCL's versions as major << 32 | minor << 16 | patch: of its header, and of the library that runs. Zeros without NCCL.
void c10d_nccl_versions(uint64_t* built, uint64_t* found) noexcept {
  *built = *found = 0;
#ifdef USE_C10D_NCCL
  *built = (uint64_t{NCCL_MAJOR} << 32) | (uint64_t{NCCL_MINOR} << 16) | NCCL_PATCH;
  try {
    *found = torch::cuda::nccl::version();
  } catch (...) {
  }
#endif
}

char* c10d_nccl(void* store, const char* prefix, int device, int rank, int size, int64_t timeout_ms, void** group) noexcept {
  return guarded([&] {
#ifdef USE_C10D_NCCL
    TORCH_CHECK(at::cuda::device_count() > 0, "NCCL needs a CUDA device");
    uint64_t built = 0, found = 0;
    c10d_nccl_versions(&built, &found);
    TORCH_CHECK(built == found, "built with the headers of NCCL ", NCCL_MAJOR, ".", NCCL_MINOR, ".", NCCL_PATCH, ", but libtorch has ",
        found >> 32, ".", (found >> 16) & 0xffff, ".", found & 0xffff, "; build again with those of libtorch");
    // The watchdog ends collectives that fail or take too long, and not the process, as launchers ask it to: what was trained is still to be saved.
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2", 1);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(prefix, *static_cast<Store*>(store));
    auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(prefixed, rank, size, options);
    backend->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    *group = new Group{backend, {}};
#else
    (void)store, (void)prefix, (void)device, (void)rank, (void)size, (void)timeout_ms, (void)group;
    throw std::runtime_error("this program was built without NCCL's headers; build it again with libtorch's CUDA package");
#endif
  });
}

char* c10d_all_reduce(void* group, void* tensor) noexcept {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    finish(group_of(group), group_of(group).backend->allreduce(tensors));
  });
}

char* c10d_broadcast(void* group, void* tensor, int root) noexcept {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    finish(group_of(group), group_of(group).backend->broadcast(tensors, options));
  });
}

char* c10d_all_gather(void* group, void* gathered, void* own) noexcept {
  return guarded([&] { finish(group_of(group), group_of(group).backend->_allgather_base(tensor_of(gathered), tensor_of(own))); });
}

// Waits on the host until the last collective is done, and throws what went wrong with it.
char* c10d_settle(void* group, int64_t timeout_ms) noexcept {
  return guarded([&] {
    if (auto work = std::exchange(group_of(group).last, {})) work->wait(std::chrono::milliseconds(timeout_ms));
  });
}

// Ends collectives that will never be done: the device would wait for them.
void c10d_abort(void* group) noexcept {
  (void)guarded([&] { group_of(group).backend->abort(); });
}

void c10d_free_group(void* group, bool shut_down) noexcept {
  (void)guarded([&] {
    if (shut_down) group_of(group).backend->shutdown();
  });
  (void)guarded([&] { delete static_cast<Group*>(group); });
}

void c10d_free_store(void* store) noexcept {
  (void)guarded([&] { delete static_cast<Store*>(store); });
}

void c10d_free(char* text) noexcept {
  std::free(text);
}
}
