#include "backend/backend.h"

#include "backend/cpu/cpu_ops.h"
#include "backend/reference/reference_ops.h"
#include "base/error.h"
#include "ops/checked_ops.h"

namespace sluice {

std::unique_ptr<Ops> MakeOps(std::string_view name) {
  std::unique_ptr<Ops> backend;
  if (name == "cpu") {
    backend = std::make_unique<CpuOps>();
  } else if (name == "reference") {
    backend = std::make_unique<ReferenceOps<double>>();
  } else if (name == "reference-tracked") {
    backend = std::make_unique<ReferenceOps<Tracked>>();
  } else {
    throw InputError("no backend is called \"{}\"; there are cpu, reference and reference-tracked", name);
  }
  return std::make_unique<CheckedOps>(std::move(backend));
}

}  // namespace sluice
