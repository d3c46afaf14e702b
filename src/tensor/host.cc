#include "tensor/host.h"

#include <cmath>

namespace sluice {

double LoadElement(const TensorView& x, int64_t i) {
  switch (x.dtype()) {
    case DType::kF32:
      return x.data<float>()[i];
    case DType::kF64:
      return x.data<double>()[i];
    default:
      return x.data<Tracked>()[i].value;
  }
}

void StoreElement(const TensorView& x, int64_t i, double value) {
  switch (x.dtype()) {
    case DType::kF32:
      x.data<float>()[i] = static_cast<float>(value);
      break;
    case DType::kF64:
      x.data<double>()[i] = value;
      break;
    default:
      x.data<Tracked>()[i] = {value, std::abs(value)};
      break;
  }
}

double SumOf(const TensorView& x) {
  double sum = 0;
  for (int64_t i = 0; i < x.num_elements(); ++i) sum += LoadElement(x, i);
  return sum;
}

}  // namespace sluice
