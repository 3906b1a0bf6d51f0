// Two devices that are the processor's memory under another name; see __init__.py.
//
// A tensor of such a device cannot be mixed with one of the processor's, as one of a graphics card
// cannot. Every operation is the processor's own, on the same memory, so its numbers are the same.
// What would make a program wait for a card is counted.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex DEVICES = 2;
thread_local c10::DeviceIndex current = 0;

// --- what is counted

std::atomic<int64_t> waits{0}, launches{0}, held{0}, most_held{0};

int64_t counted(const std::string& what) {
  if (what == "waits") return waits;
  if (what == "launches") return launches;
  if (what == "held") return held;
  if (what == "most held") return most_held;
  TORCH_CHECK(false, what, " is not counted");
}

void begin_counting() {
  waits = launches = 0;
  most_held = held.load();
}

// --- memory

std::atomic<bool> doubles{true};  // a Mac's card has none

void check_type(at::ScalarType type) {
  TORCH_CHECK_TYPE(doubles || type != at::kDouble, "this device has no float64");
}

struct Block {
  void* data;
  size_t bytes;
};

void give_back(void* context) {
  auto* block = static_cast<Block*>(context);
  held -= static_cast<int64_t>(block->bytes);
  c10::free_cpu(block->data);
  delete block;
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{c10::alloc_cpu(bytes), bytes};
    const int64_t now = held += static_cast<int64_t>(bytes);
    for (int64_t most = most_held; most < now && !most_held.compare_exchange_weak(most, now);) {
    }
    return {block->data, block, &give_back, c10::Device(KIND, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

// --- which device is the current one

struct Guard final : c10::impl::DeviceGuardImplInterface {
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override {
    return KIND;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override {
    return c10::Device(KIND, current);
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < DEVICES, "there is no device ", device);
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return DEVICES;
  }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// --- random numbers: the processor's, of another seed, as a card has its own

constexpr uint64_t OTHER = 0x9E3779B97F4A7C15;

struct Generator final : c10::GeneratorImpl {
  Generator(c10::DeviceIndex index, at::Generator of)
      : c10::GeneratorImpl(
            c10::Device(KIND, index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        inner(std::move(of)) {}
  void set_current_seed(uint64_t seed) override {
    inner.set_current_seed(seed ^ OTHER);
  }
  void set_offset(uint64_t offset) override {
    inner.set_offset(offset);
  }
  uint64_t get_offset() const override {
    return inner.get_offset();
  }
  uint64_t current_seed() const override {
    return inner.current_seed() ^ OTHER;
  }
  uint64_t seed() override {
    return inner.seed() ^ OTHER;
  }
  void set_state(const c10::TensorImpl& state) override {
    inner.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner.unsafeGetGeneratorImpl()->get_state();
  }
  Generator* clone_impl() const override {
    return new Generator(device_.index(), inner.clone());
  }

  at::Generator inner;
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    static const std::array<at::Generator, DEVICES> all{getNewGenerator(0), getNewGenerator(1)};
    return all.at(index < 0 ? current : index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(
        index < 0 ? current : index, at::detail::createCPUGenerator());
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return DEVICES;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetAllocator(c10::kCPU);
  }
};

// --- the processor's view of a tensor, and back

at::Tensor on_processor(const at::Tensor& tensor) {
  const at::TensorOptions options = tensor.options().device(c10::kCPU);
  const at::Tensor view = at::from_blob(
      const_cast<void*>(tensor.storage().data()), tensor.sizes(), tensor.strides(),
      tensor.storage_offset(), [tensor](void*) {}, options, c10::Device(c10::kCPU));
  view._set_conj(tensor.is_conj());
  view._set_neg(tensor.is_neg());
  return view;
}

at::Tensor on_device(const at::Tensor& tensor, c10::Device device) {
  const c10::OptionalDeviceGuard guard(device);
  check_type(tensor.scalar_type());
  const at::Tensor made = at::detail::empty_strided_generic(
      tensor.sizes(), tensor.strides(), &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      tensor.scalar_type());
  on_processor(made).copy_(tensor);
  return made;
}

bool ours(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == KIND;
}

// Where a processor's tensor of any shape may say the places, as with CUDA.
const std::unordered_set<std::string> INDEXED{"aten::index.Tensor_out", "aten::_index_put_impl_"};
// These read numbers before they can go on. (Reading by a mask has called nonzero by then.)
const std::unordered_set<std::string> WAITING{
    "aten::_linalg_eigh", "aten::_linalg_svd", "aten::_unique", "aten::_unique2", "aten::bincount",
    "aten::equal", "aten::linalg_eig", "aten::masked_select", "aten::multinomial", "aten::nonzero",
    "aten::repeat_interleave", "aten::unique_consecutive", "aten::unique_dim",
    "aten::unique_dim_consecutive"};

struct Written {
  const c10::AliasInfo* alias;
  at::Tensor given, for_processor;
};

void any_operation(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const auto& arguments = schema.arguments();
  const size_t first = stack->size() - arguments.size();
  const std::string name = operation.operator_name().name +
      (operation.operator_name().overload_name.empty()
           ? ""
           : "." + operation.operator_name().overload_name);
  const bool indexed = INDEXED.count(name);
  std::optional<c10::Device> device, asked;
  bool foreign = false, changes_foreign = false, masked = false;
  at::Generator drawn_by;
  const auto look = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (!ours(tensor)) {
      foreign |= tensor.dim() > 0;
      return;
    }
    TORCH_CHECK(
        !device || *device == tensor.device(), "Expected all tensors to be on the same device, ",
        "but found at least two devices, ", *device, " and ", tensor.device(), "! (in ", name, ")");
    device = tensor.device();
  };
  std::vector<Written> written;
  for (size_t place = 0; place < arguments.size(); place++) {
    auto& value = (*stack)[first + place];
    const auto* alias = arguments[place].alias_info();
    if (value.isTensor()) {
      const at::Tensor given = value.toTensor();
      look(given);
      changes_foreign |= alias && alias->isWrite() && given.defined() && !ours(given);
      if (!ours(given)) continue;
      const bool empty_out = arguments[place].is_out() && !given.numel();
      value = empty_out ? at::empty({0}, given.options().device(c10::kCPU)) : on_processor(given);
      if (alias && alias->isWrite()) written.push_back({alias, given, value.toTensor()});
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> all;
      for (const at::Tensor& one : value.toTensorVector()) {
        look(one);
        all.push_back(ours(one) ? on_processor(one) : one);
      }
      value = c10::IValue(all);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> all;
      for (const std::optional<at::Tensor>& one : value.toOptionalTensorList()) {
        if (one) masked |= one->scalar_type() == at::kBool || one->scalar_type() == at::kByte;
        if (one && !(indexed && !ours(*one))) look(*one);
        all.push_back(one && ours(*one) ? std::optional<at::Tensor>(on_processor(*one)) : one);
      }
      value = c10::IValue(all);
    } else if (value.isGenerator() || (value.isNone() && arguments[place].name() == "generator")) {
      if (value.isNone()) {
        value = at::detail::getPrivateUse1Hooks().getDefaultGenerator(current);
      } else {
        drawn_by = value.toGenerator();
      }
      const at::Generator draws = value.toGenerator();
      if (draws.device().type() != KIND) continue;
      value = static_cast<Generator*>(draws.unsafeGetGeneratorImpl())->inner;
    } else if (value.isDevice()) {
      if (value.toDevice().type() == KIND) {
        asked = value.toDevice();
        value = c10::IValue(c10::Device(c10::kCPU));
      }
    }
  }
  if (asked) device = asked->has_index() ? *asked : c10::Device(KIND, current);
  TORCH_CHECK(
      !(device && (foreign || changes_foreign)) || asked,
      "Expected all tensors to be on the same device, but found at ",
      "least two devices, ", *device, " and cpu! (in ", name, ")");
  TORCH_CHECK(
      !drawn_by.defined() || bool(device) == (drawn_by.device().type() == KIND), "Expected a '",
      device ? KIND : c10::kCPU, "' device type for generator but found '",
      drawn_by.device().type(), "'");
  if (!device) device = c10::Device(KIND, current);
  launches++;
  if (WAITING.count(operation.operator_name().name)) waits++;
  if (masked && name == "aten::_index_put_impl_") waits++;

  {
    const at::AutoDispatchBelowADInplaceOrView no_gradient;
    operation.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }

  const auto& returns = schema.returns();
  const size_t results = stack->size() - returns.size();
  for (size_t place = 0; place < returns.size(); place++) {
    auto& value = (*stack)[results + place];
    const auto* alias = returns[place].alias_info();
    TORCH_CHECK_NOT_IMPLEMENTED(
        !alias || alias->isWrite(), "the pretend device has no kernel for the view ", name);
    if (value.isTensor()) {
      const auto same = [&](const Written& one) {
        return alias && one.alias->beforeSets() == alias->beforeSets();
      };
      const auto place_of = std::find_if(written.begin(), written.end(), same);
      if (place_of != written.end()) {
        const auto& [_, given, made] = *place_of;
        if (given.sizes() != made.sizes()) given.resize_(made.sizes());
        if (made.storage().data() != given.storage().data()) on_processor(given).copy_(made);
        value = given;
      } else if (value.toTensor().defined()) {
        value = on_device(value.toTensor(), *device);
      }
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> all;
      for (const at::Tensor& one : value.toTensorVector()) {
        all.push_back(one.defined() ? on_device(one, *device) : one);
      }
      value = c10::IValue(all);
    }
  }
}

// --- what cannot be left to the processor: memory, views, copies between devices, numbers read

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  check_type(c10::dtype_or_default(type));
  return at::detail::empty_generic(
      size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type,
    std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  check_type(c10::dtype_or_default(type));
  return at::detail::empty_strided_generic(
      size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(type));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  launches++;
  if (ours(from) != ours(to) && !non_blocking) waits++;
  (ours(to) ? on_processor(to) : to).copy_(ours(from) ? on_processor(from) : from);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar read(const at::Tensor& tensor) {
  waits++;
  return at::native::_local_scalar_dense_cpu(on_processor(tensor));
}

const at::Tensor& resize(
    const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* kept = tensor.unsafeGetTensorImpl();
  const c10::OptionalDeviceGuard guard(tensor.device());
  const size_t bytes =
      (c10::multiply_integers(size) + tensor.storage_offset()) * tensor.itemsize();
  auto storage = tensor.storage();
  if (storage.nbytes() < bytes) {
    auto fresh = memory.allocate(bytes);
    if (storage.nbytes()) std::memcpy(fresh.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(fresh));
    storage.set_nbytes(bytes);
  }
  kept->set_sizes_contiguous(size);
  return tensor;
}

at::Tensor& set_storage(
    at::Tensor& tensor, at::Storage source, int64_t offset, at::IntArrayRef size,
    at::IntArrayRef stride) {
  auto* kept = tensor.unsafeGetTensorImpl();
  kept->set_storage_keep_dtype(std::move(source));
  kept->set_storage_offset(offset);
  if (stride.empty()) {
    kept->set_sizes_contiguous(size);
  } else {
    kept->set_sizes_and_strides(size, stride);
  }
  return tensor;
}

at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups) {
  for (const auto* one : {&weight, bias ? &*bias : &weight}) {
    TORCH_CHECK(
        !one->defined() || one->device() == input.device(), "Input type (", input.device(),
        ") and weight type (", one->device(), ") should be the same");
  }
  launches++;
  const at::AutoDispatchBelowADInplaceOrView no_gradient;
  std::optional<at::Tensor> given;
  if (bias && bias->defined()) given = on_processor(*bias);
  return on_device(
      at::convolution(on_processor(input), on_processor(weight), given, stride, padding, dilation,
                      transposed, output_padding, groups),
      input.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& slope, const at::Tensor& input, const at::Tensor& weight,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  launches++;
  const at::AutoDispatchBelowADInplaceOrView no_gradient;
  auto [of_input, of_weight, of_bias] = at::convolution_backward(
      on_processor(slope), on_processor(input), on_processor(weight),
      at::IntArrayRef{slope.size(1)}, stride, padding, dilation, transposed, output_padding, groups,
      mask);
  const auto back = [&](const at::Tensor& one) {
    return one.defined() ? on_device(one, input.device()) : one;
  };
  return {back(of_input), back(of_weight), back(of_bias)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&any_operation>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &read);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  // One operation, as with CUDA; without these torch would put each together from several.
  m.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&any_operation>());
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&any_operation>());
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

// Mixed precision, by the lists that CUDA has.
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FLOAT32_RESULT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

using namespace at;  // the list of the other signatures names its types without it

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FLOAT32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FLOAT32_RESULT)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(WIDEST)
}

TORCH_LIBRARY(pretend_device, m) {
  m.def("register", [] {
    static Hooks hooks;
    if (!at::isPrivateUse1HooksRegistered()) at::RegisterPrivateUse1HooksInterface(&hooks);
  });
  m.def("seed", [](int64_t seed) {
    for (c10::DeviceIndex index = 0; index < DEVICES; index++) {
      auto all = at::detail::getPrivateUse1Hooks().getDefaultGenerator(index);
      all.set_current_seed(static_cast<uint64_t>(seed));
    }
  });
  m.def("allow_double", [](bool allowed) { doubles = allowed; });
  m.def("begin_counting", &begin_counting);
  m.def("counted", [](std::string what) { return counted(what); });
}

}  // namespace
