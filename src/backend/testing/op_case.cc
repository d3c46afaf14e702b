// Declaring cases: the values of a tensor depend on the names of case and tensor alone, so adding a
// tensor or a case changes no other.
#include "backend/testing/op_case.h"

#include <limits>

namespace sluice {
namespace {

// FNV-1a.
uint64_t SeedOf(std::string_view text, uint64_t seed = 0xcbf29ce484222325u) {
  for (const char c : text) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return seed;
}

std::vector<double> MakeValues(const OpCase& op_case, const std::string& tensor, const Shape& shape,
                               const Fill& fill) {
  Random random(SeedOf(op_case.name), SeedOf(tensor));
  std::vector<double> values = fill(shape.num_elements(), random);
  SLUICE_CHECK_EQ(static_cast<int64_t>(values.size()), shape.num_elements());
  for (double& value : values) value = static_cast<double>(static_cast<float>(value));
  return values;
}

}  // namespace

Fill Normal(double scale, double mean) {
  return [=](int64_t n, Random& random) {
    std::vector<double> values(static_cast<size_t>(n));
    for (double& value : values) value = mean + scale * random.Normal();
    return values;
  };
}

Fill Uniform(double low, double high) {
  return [=](int64_t n, Random& random) {
    std::vector<double> values(static_cast<size_t>(n));
    for (double& value : values) value = low + (high - low) * random.Uniform();
    return values;
  };
}

Fill Constant(double value) {
  return [=](int64_t n, Random&) { return std::vector<double>(static_cast<size_t>(n), value); };
}

Fill Values(std::vector<double> values) {
  return [values = std::move(values)](int64_t, Random&) { return values; };
}

const TensorView& Tensors::operator[](std::string_view name) const {
  for (const auto& [tensor, view] : views_)
    if (tensor == name) return view;
  throw Bug(fmt::format("the case has no tensor called \"{}\"", name));
}

TensorView Tensors::Optional(std::string_view name) const {
  for (const auto& [tensor, view] : views_)
    if (tensor == name) return view;
  return {};
}

OpCase& OpCase::In(std::string tensor, Shape shape, const Fill& fill) {
  tensors.push_back({tensor, DType::kF32, shape, Role::kInput, MakeValues(*this, tensor, shape, fill)});
  return *this;
}

OpCase& OpCase::Out(std::string tensor, Shape shape) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  tensors.push_back({std::move(tensor), DType::kF32, shape, Role::kOutput,
                     std::vector<double>(static_cast<size_t>(shape.num_elements()), nan)});
  return *this;
}

OpCase& OpCase::InOut(std::string tensor, Shape shape, const Fill& fill) {
  tensors.push_back({tensor, DType::kF32, shape, Role::kInOut, MakeValues(*this, tensor, shape, fill)});
  return *this;
}

OpCase& OpCase::Ints(std::string tensor, Shape shape, const std::vector<int32_t>& values) {
  SLUICE_CHECK_EQ(static_cast<int64_t>(values.size()), shape.num_elements());
  tensors.push_back({std::move(tensor), DType::kI32, shape, Role::kInput,
                     std::vector<double>(values.begin(), values.end())});
  return *this;
}

OpCase& OpCase::IntsOut(std::string tensor, Shape shape, DType dtype) {
  tensors.push_back({std::move(tensor), dtype, shape, Role::kOutput,
                     std::vector<double>(static_cast<size_t>(shape.num_elements()), -77)});
  return *this;
}

OpCase& OpCase::ScalarOut(std::string tensor, double magnitude) {
  TensorSpec spec{.name = std::move(tensor), .dtype = DType::kF64, .shape = {1}, .role = Role::kOutput};
  spec.values = {std::numeric_limits<double>::quiet_NaN()};
  spec.magnitude = magnitude;
  tensors.push_back(std::move(spec));
  return *this;
}

OpCase& OpCase::Contiguous() {
  tensors.back().contiguous = true;
  return *this;
}

void OpCase::NanStaysInRow(const std::vector<std::string>& inputs, const std::string& output) {
  nan_stays_in_row = inputs;
  nan_output = output;
}

const TensorSpec* OpCase::Find(std::string_view tensor) const {
  for (const TensorSpec& spec : tensors)
    if (spec.name == tensor) return &spec;
  return nullptr;
}

TensorSpec* OpCase::Find(std::string_view tensor) {
  return const_cast<TensorSpec*>(std::as_const(*this).Find(tensor));
}

}  // namespace sluice
