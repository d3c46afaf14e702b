// Guarded memory: kGuard elements of a byte pattern lie before and after every tensor.
#include "backend/testing/op_run.h"

#include <algorithm>
#include <cstring>

namespace sluice {
namespace {

constexpr int64_t kGuard = 16;
constexpr size_t kAlignment = 64;
constexpr std::byte kPattern{0xA5};

template <class T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void Store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

Tracked LoadReal(DType dtype, const std::byte* from) {
  switch (dtype) {
    case DType::kF32:
      return {Load<float>(from), 0};
    case DType::kF64:
      return {Load<double>(from), 0};
    case DType::kTracked:
      return Load<Tracked>(from);
    case DType::kI8:
      return {static_cast<double>(Load<int8_t>(from)), 0};
    case DType::kU8:
      return {static_cast<double>(Load<uint8_t>(from)), 0};
    case DType::kF16:
    case DType::kBF16:
      return {static_cast<double>(Load<uint16_t>(from)), 0};
    case DType::kI32:
      return {static_cast<double>(Load<int32_t>(from)), 0};
    default:
      throw Bug(fmt::format("the harness has no {} tensors", NameOf(dtype)));
  }
}

void StoreReal(DType dtype, std::byte* to, double value) {
  switch (dtype) {
    case DType::kF32:
      return Store(to, static_cast<float>(value));
    case DType::kF64:
      return Store(to, value);
    case DType::kTracked:
      return Store(to, Tracked{value, 0});  // A float32 value is exact: no rounding behind it.
    case DType::kI8:
      return Store(to, static_cast<int8_t>(value));
    case DType::kU8:
      return Store(to, static_cast<uint8_t>(value < 0 ? 0xee : value));
    case DType::kF16:
    case DType::kBF16:
      return Store(to, static_cast<uint16_t>(value < 0 ? 0x7bff : value));
    case DType::kI32:
      return Store(to, static_cast<int32_t>(value));
    default:
      throw Bug(fmt::format("the harness has no {} tensors", NameOf(dtype)));
  }
}

bool IsExact(DType dtype) {
  return dtype == DType::kI8 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kI32;
}

int64_t RowSize(const Shape& shape) {
  int64_t n = 1;
  for (int axis = 1; axis < shape.rank(); ++axis) n *= shape[axis];
  return n;
}

}  // namespace

std::byte* OpRun::Memory::Element(int64_t i) {
  const int64_t row = row_size == 0 ? 0 : i / row_size;
  const int64_t index = first + row * row_stride + (i - row * row_size);
  return bytes.data() + aligned_offset + static_cast<size_t>(index) * SizeOf(dtype);
}

TensorView OpRun::Memory::View() const {
  void* data = const_cast<Memory*>(this)->Element(0);
  if (spec->shape.rank() < 2) return TensorView(data, dtype, spec->shape);
  return TensorView(data, dtype, spec->shape, row_stride);
}

OpRun::OpRun(const OpCase& op_case, DType real, Layout layout) : case_(op_case) {
  memory_.resize(op_case.tensors.size());
  for (size_t i = 0; i < memory_.size(); ++i) {
    Memory& memory = memory_[i];
    memory.spec = &op_case.tensors[i];
    memory.dtype = memory.spec->dtype == DType::kF32 ? real : memory.spec->dtype;
    const Shape& shape = memory.spec->shape;
    const bool gaps = shape.rank() >= 2 && !memory.spec->contiguous;
    memory.row_size = RowSize(shape);
    memory.row_stride = memory.row_size + (gaps ? layout.row_gap : 0);
    memory.first = kGuard + layout.offset;
    const int64_t num_rows = shape.rank() == 0 ? 1 : shape[0];
    const int64_t elements = memory.first + num_rows * memory.row_stride + kGuard;
    memory.bytes.resize(static_cast<size_t>(elements) * SizeOf(memory.dtype) + kAlignment, kPattern);
    const auto address = reinterpret_cast<uintptr_t>(memory.bytes.data());
    memory.aligned_offset = (kAlignment - address % kAlignment) % kAlignment;
    const int64_t num_elements = shape.num_elements();
    for (int64_t j = 0; j < num_elements; ++j)
      StoreReal(memory.dtype, memory.Element(j), memory.spec->values[static_cast<size_t>(j)]);
    memory.initial = memory.bytes;
  }
}

void OpRun::Reset() {
  for (Memory& memory : memory_)
    std::copy(memory.initial.begin(), memory.initial.end(), memory.bytes.begin());
}

const OpRun::Memory& OpRun::Find(const std::string& name) const {
  for (const Memory& memory : memory_)
    if (memory.spec->name == name) return memory;
  throw Bug(fmt::format("the case \"{}\" has no tensor called \"{}\"", case_.name, name));
}

double OpRun::Get(const std::string& name, int64_t element) const {
  const Memory& memory = Find(name);
  return LoadReal(memory.dtype, memory.Element(element)).value;
}

void OpRun::Set(const std::string& name, int64_t element, double value) {
  Memory& memory = const_cast<Memory&>(Find(name));
  StoreReal(memory.dtype, memory.Element(element), value);
}

Tensors OpRun::tensors() const {
  std::vector<std::pair<std::string, TensorView>> views;
  for (const Memory& memory : memory_) views.emplace_back(memory.spec->name, memory.View());
  return Tensors(std::move(views));
}

void OpRun::Forward(Ops& ops) const {
  if (case_.rows) {
    case_.rows(ops, tensors(), 0, case_.num_rows);
  } else if (case_.forward) {
    case_.forward(ops, tensors());
  }
}

void OpRun::Gradient(Ops& ops) const {
  if (case_.gradient) case_.gradient(ops, tensors());
}

Results OpRun::Outputs() const {
  Results results;
  for (const Memory& memory : memory_) {
    if (memory.spec->role == Role::kInput) continue;
    Result result;
    result.name = memory.spec->name;
    result.row_size = memory.row_size;
    result.num_rows = memory.spec->shape.rank() == 0 ? 1 : memory.spec->shape[0];
    result.exact = IsExact(memory.dtype);
    const int64_t n = memory.spec->shape.num_elements();
    for (int64_t i = 0; i < n; ++i) {
      const Tracked element = LoadReal(memory.dtype, memory.Element(i));
      result.value.push_back(element.value);
      const bool scalar = memory.spec->dtype == DType::kF64;
      result.magnitude.push_back(scalar ? std::abs(element.value) + memory.spec->magnitude
                                        : element.magnitude);
    }
    results.push_back(std::move(result));
  }
  return results;
}

std::string OpRun::CheckUntouched() const {
  for (const Memory& memory : memory_) {
    std::vector<std::byte> expected = memory.initial;
    if (memory.spec->role != Role::kInput) {
      // The elements may change; all around and between them may not.
      for (int64_t i = 0; i < memory.spec->shape.num_elements(); ++i) {
        const std::byte* element = memory.Element(i);
        std::copy(element, element + SizeOf(memory.dtype),
                  expected.begin() + (element - memory.bytes.data()));
      }
    }
    const auto [changed, unused] = std::mismatch(memory.bytes.begin(), memory.bytes.end(), expected.begin());
    if (changed != memory.bytes.end()) {
      const auto byte = changed - memory.bytes.begin() - static_cast<ptrdiff_t>(memory.aligned_offset);
      return fmt::format(
          "{}: wrote {} at element {} (counted from the first, rows {} apart)", memory.spec->name,
          memory.spec->role == Role::kInput ? "to an input" : "outside the tensor",
          byte / static_cast<ptrdiff_t>(SizeOf(memory.dtype)) - memory.first, memory.row_stride);
    }
  }
  return "";
}

}  // namespace sluice
