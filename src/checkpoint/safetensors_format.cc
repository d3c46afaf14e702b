// Type names and checksum of the safetensors format. See safetensors.h.
#include "checkpoint/safetensors_format.h"

#include <fmt/format.h>

#include <new>
#include <utility>

namespace sluice::safetensors {
namespace {

constexpr std::pair<std::string_view, DType> kTypes[] = {
    {"F64", DType::kF64}, {"F32", DType::kF32}, {"BF16", DType::kBF16}, {"F16", DType::kF16},
    {"I64", DType::kI64}, {"I32", DType::kI32}, {"I8", DType::kI8},     {"U8", DType::kU8},
};

}  // namespace

std::optional<DType> TypeOfName(std::string_view name) {
  for (const auto& [known, dtype] : kTypes) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

std::string_view NameOfType(DType dtype) {
  for (const auto& [name, known] : kTypes) {
    if (known == dtype) return name;
  }
  return {};
}

size_t FindChecksum(std::string_view header, std::string_view digits) {
  const size_t key = header.find(kChecksumKey);
  if (key == std::string_view::npos || digits.size() != kChecksumDigits) return std::string_view::npos;
  return header.find(digits, key + kChecksumKey.size());
}

Checksum::Checksum() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_64bits_reset(state_.get());
}

void Checksum::Add(const void* bytes, size_t size) {
  if (size > 0) XXH3_64bits_update(state_.get(), bytes, size);
}

std::string Checksum::Digits() const {
  return fmt::format("{:016x}", XXH3_64bits_digest(state_.get()));
}

}  // namespace sluice::safetensors
