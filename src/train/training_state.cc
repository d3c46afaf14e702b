#include "train/training_state.h"

#include <charconv>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace sluice {

namespace {

constexpr const char* kStepsKey = "sluice.steps_done";

struct StateTensor {
  const char* name;
  TensorView values;
};

std::array<StateTensor, 3> StateTensors(const Model& model, const Optimizer& optimizer) {
  return {
      {{"parameters", model.parameters()}, {"optimizer.m", optimizer.m()}, {"optimizer.v", optimizer.v()}}};
}

}  // namespace

void SaveTrainingState(const std::filesystem::path& file, const Model& model, const Optimizer& optimizer,
                       int64_t steps_done) {
  std::vector<TensorToStore> tensors;
  for (const StateTensor& tensor : StateTensors(model, optimizer)) {
    tensors.push_back({tensor.name, tensor.values, DType::kF32});
  }
  WriteSafetensors(file, tensors, {{kStepsKey, std::to_string(steps_done)}});
}

int64_t LoadTrainingState(const std::filesystem::path& file, const Model& model, const Optimizer& optimizer) {
  const SafetensorsFile state(file);
  state.Verify();
  for (const StateTensor& tensor : StateTensors(model, optimizer)) state.ReadInto(tensor.name, tensor.values);
  int64_t steps_done = -1;
  const auto entry = state.metadata().find(kStepsKey);
  if (entry != state.metadata().end()) {
    std::from_chars(entry->second.data(), entry->second.data() + entry->second.size(), steps_done);
  }
  if (steps_done < 0) {
    throw InputError("{}: not a training state (no step count); start again in another --output folder",
                     file.string());
  }
  return steps_done;
}

}  // namespace sluice
