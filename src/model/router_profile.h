// Router profiles: selection biases [layers, experts] of one model's routers for another domain than it was
// trained on, so that its experts are evenly used there (eval/calibrate.h makes them).
//
// A profile NAME is FOLDER/profiles/NAME.safetensors: the tensors of the router biases, named as in
// model.safetensors, and in the metadata the checksum of the weights that it belongs to and its figures. The
// list `router_profiles` in config.json says which profiles a model has. It is written last, so that a file
// that is not in the list is none.
#pragma once

#include <cstdint>
#include <string>

#include "model/model_folder.h"

namespace sluice {

// What was measured when the profile was made: of held-out tokens, with the model's own biases and with the
// profile's.
struct RouterProfileFigures {
  int64_t calibration_tokens = 0;
  int64_t held_out_tokens = 0;
  double blend = 0;               // Share of the way from the model's own biases to balanced ones.
  double loss_before = 0;         // Nats per token.
  double loss_after = 0;          //
  double utilisation_before = 0;  // Mean load / max load of a layer's experts, mean over layers.
  double utilisation_after = 0;   //
};

struct RouterProfile {
  std::string name;
  Buffer bias;  // f32 [layers, experts]
  RouterProfileFigures figures;
};

// The biases that a model routes by, f32 [layers, experts].
Buffer RouterBias(const Model& model);
// Overwrites them. REQUIRES: nobody runs the model meanwhile.
void SetRouterBias(const Model& model, const TensorView& bias);

// Throws InputError unless `name` is 1 to 64 letters, digits, dots, hyphens and underscores, not starting
// with a dot.
void CheckProfileName(const std::string& name);
std::filesystem::path ProfileFile(const ModelFolder& files, const std::string& name);

// Reads a profile of the model that `files` hold, which `model` was loaded from. Throws InputError if the
// model has none of this name (naming those it has), or the file is missing, damaged, or of other weights.
RouterProfile ReadRouterProfile(const ModelFolder& files, const Model& model, const std::string& name);

// Writes the profile's file, then its name into config.json, each as a whole or not at all; one of the same
// name is replaced. REQUIRES: `model` has the routers of the one in `files`. Throws SystemError when the disk
// refuses.
void WriteRouterProfile(const ModelFolder& files, const Model& model, const RouterProfile& profile);

}  // namespace sluice
