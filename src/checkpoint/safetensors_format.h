// What reading and writing safetensors share: type names, limits, the key of the checksum.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace sluice::safetensors {

inline constexpr uint64_t kLengthBytes = 8;
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // The limit of the format's own library.
inline constexpr uint64_t kAlignment = 64;
inline constexpr std::string_view kChecksumKey = "sluice.xxh3";
inline constexpr size_t kChecksumDigits = 16;
inline constexpr std::string_view kChecksumZeros = "0000000000000000";

// "F32" and so on; absent for types that the format or this program does not have.
std::optional<DType> TypeOfName(std::string_view name);
std::string_view NameOfType(DType dtype);

// Where the checksum's digits stand in a header's text, or npos.
size_t FindChecksum(std::string_view header, std::string_view digits);

// XXH3-64, fed piece by piece.
class Checksum {
 public:
  Checksum();
  void Add(const void* bytes, size_t size);
  std::string Digits() const;

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace sluice::safetensors
