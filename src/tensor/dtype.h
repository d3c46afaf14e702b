// Element types of tensors, and what differs between them.
#pragma once

#include <bit>
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

inline constexpr size_t kSizeOfDType[] = {4, 8, sizeof(Tracked), 2, 2, 1, 1, 4, 8};
// Bytes of an element.
constexpr size_t SizeOf(DType dtype) {
  return kSizeOfDType[static_cast<size_t>(dtype)];
}
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
inline uint16_t BF16FromFloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  // A NaN whose payload is all in the lower half would become infinity: set the quiet bit.
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float FloatFromBF16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

}  // namespace sluice
