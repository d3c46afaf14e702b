// Names of element types.
#include "tensor/dtype.h"

#include "base/check.h"

namespace sluice {

std::string_view NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF64:
      return "f64";
    case DType::kTracked:
      return "tracked";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI8:
      return "i8";
    case DType::kU8:
      return "u8";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
  }
  throw Bug(fmt::format("unknown element type {}", static_cast<int>(dtype)));
}

}  // namespace sluice
