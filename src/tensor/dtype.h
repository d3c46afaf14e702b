// Element types of tensors, and what differs between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sluice {

// A value and its magnitude: the first-order bound of what rounding can do to it, in units of eps.
// The reference backend computes with it to give every output an error bound of its own.
struct Tracked {
  double value = 0;
  double magnitude = 0;
};

enum class DType : uint8_t { kF32, kF64, kTracked, kBF16, kF16, kI8, kU8, kI32, kI64 };

size_t SizeOf(DType dtype);
std::string_view NameOf(DType dtype);  // "f32", ...

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType kValue = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType kValue = DType::kF64;
};
template <>
struct DTypeOf<Tracked> {
  static constexpr DType kValue = DType::kTracked;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType kValue = DType::kI8;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType kValue = DType::kU8;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType kValue = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType kValue = DType::kI64;
};

// bfloat16 as its 16 bits: round to nearest even; NaN stays NaN.
uint16_t BF16FromFloat(float value);
float FloatFromBF16(uint16_t bits);

}  // namespace sluice
