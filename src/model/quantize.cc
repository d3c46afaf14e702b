#include "model/quantize.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "base/file.h"
#include "base/pending_folder.h"
#include "checkpoint/safetensors.h"
#include "model/router_profile.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

// Whether `name` is `pattern` with any text for each *.
bool Matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern.front() == '*') {
    return Matches(pattern.substr(1), name) || (!name.empty() && Matches(pattern, name.substr(1)));
  }
  return !name.empty() && pattern.front() == name.front() && Matches(pattern.substr(1), name.substr(1));
}

void CheckRules(const Model& model, const QuantizeOptions& options) {
  for (const TensorRule& rule : options.rules) {
    const std::vector<ParameterInfo>& all = model.table().parameters();
    const bool matches = std::any_of(all.begin(), all.end(), [&](const ParameterInfo& parameter) {
      return parameter.is_matrix && Matches(rule.pattern, parameter.name);
    });
    if (matches) continue;
    throw InputError(
        "--tensor: no matrix of this model is called \"{}\"; `sluice info --tensors` lists the names, and * "
        "stands "
        "for any part of one",
        rule.pattern);
  }
}

WeightFormat FormatFor(const ParameterInfo& parameter, const QuantizeOptions& options) {
  WeightFormat format = options.format;
  if (format == WeightFormat::kQ4 && parameter.name == kEmbeddingName) format = WeightFormat::kQ8;
  if (!options.gates && parameter.kind == ParameterKind::kGate) format = WeightFormat::kFloat;
  for (const TensorRule& rule : options.rules) {
    if (!Matches(rule.pattern, parameter.name)) continue;
    format = rule.format;
    break;
  }
  return parameter.CanHave(format) ? format : WeightFormat::kFloat;
}

ModelConfig QuantizedConfig(const Model& model, const QuantizeOptions& options) {
  CheckRules(model, options);
  ModelConfig config = model.config();
  for (const ParameterInfo& parameter : model.table().parameters()) {
    const WeightFormat format = FormatFor(parameter, options);
    if (format != WeightFormat::kFloat) config.quantization[parameter.name] = format;
  }
  return config;
}

// [experts, in]; absent: all 1.
Buffer ImportanceOf(const ParameterInfo& parameter, const QuantizeOptions& options) {
  if (options.inputs == nullptr) return {};
  const auto found = options.inputs->find(parameter.name);
  return found == options.inputs->end() ? Buffer() : found->second.Importance();
}

StoredMatrixBuffer Quantize(const ParameterInfo& parameter, const TensorView& values, WeightFormat format,
                            const TensorView& importance, Rounding rounding) {
  const Shape rows = parameter.RowShape();
  StoredMatrixBuffer stored(format, rows[0], rows[1]);
  QuantizeRows(format, values.Reshape(rows), importance, stored.view(), parameter.name.c_str(), rounding);
  return stored;
}

void MeasureErrors(const TensorView& weights, const StoredMatrix& stored, const TensorView& importance,
                   QuantizedFigures& figures) {
  const int64_t rows = weights.dim(0), in = weights.dim(1);
  for (int64_t r = 0; r < rows; ++r) {
    const float* w = weights.row<float>(r);
    const float* a = importance.present() ? importance.row<float>(r / (rows / importance.dim(0))) : nullptr;
    for (int64_t k = 0; k < in; ++k) {
      const double error = w[k] - StoredWeight(figures.format, stored, r, k);
      const double weight = a != nullptr ? a[k] : 1;
      figures.error_squares += weight * error * error;
      figures.weight_squares += weight * w[k] * w[k];
    }
  }
}

// Rows under the parameter's own leading axes.
TensorView Shaped(const ParameterInfo& parameter, const TensorView& rows) {
  if (parameter.shape.rank() == 2) return rows;
  return rows.Reshape({parameter.shape[0], parameter.shape[1], rows.dim(1)});
}

int64_t AddStored(const ParameterInfo& parameter, const StoredMatrix& stored,
                  std::vector<TensorToStore>& tensors) {
  int64_t bytes = 0;
  const auto add = [&](const std::string& name, const TensorView& view) {
    if (!view.present()) return;
    tensors.push_back({name, Shaped(parameter, view), view.dtype()});
    bytes += view.num_elements() * static_cast<int64_t>(SizeOf(view.dtype()));
  };
  add(parameter.name, stored.codes);
  add(ScalesName(parameter.name), stored.scales);
  add(MinsName(parameter.name), stored.mins);
  return bytes;
}

void CopyFile(const fs::path& from, const fs::path& to) {
  if (fs::exists(from)) WriteFileAtomically(to, ReadFile(from));
}

}  // namespace

double QuantizedFigures::relative_error() const {
  return weight_squares > 0 ? std::sqrt(error_squares / weight_squares) : 0;
}

std::unique_ptr<Model> QuantizeModel(const Model& model, const QuantizeOptions& options) {
  SLUICE_CHECK(model.config().quantization.empty());
  auto quantized = std::make_unique<Model>(QuantizedConfig(model, options), model.ops());
  const std::vector<ParameterInfo>& before = model.table().parameters();
  const std::vector<ParameterInfo>& after = quantized->table().parameters();
  for (size_t i = 0; i < before.size(); ++i) {
    const TensorView values = model.table().View(before[i], model.parameters());
    if (after[i].format == WeightFormat::kFloat) {
      const TensorView copy = quantized->table().View(after[i], quantized->parameters());
      std::copy_n(values.data<float>(), values.num_elements(), copy.data<float>());
    } else {
      const Buffer importance = ImportanceOf(before[i], options);
      const StoredMatrixBuffer stored =
          Quantize(before[i], values, after[i].format, importance, options.rounding);
      quantized->Quantized(after[i].name).Pack(stored.view(), after[i].NumStacked());
    }
  }
  return quantized;
}

std::vector<QuantizedFigures> SaveQuantizedModel(
    const ModelFolder& source, const Model& model, const fs::path& output, const QuantizeOptions& options,
    const std::function<void(int64_t done, int64_t total)>& on_progress) {
  if (!model.config().quantization.empty()) {
    throw InputError("{}: is quantised already; take the model that it was made from", source.path.string());
  }
  ModelConfig config = QuantizedConfig(model, options);
  PendingFolder folder(output);
  const ModelFolder files{folder.temporary()};
  const std::vector<ParameterInfo>& parameters = model.table().parameters();
  std::vector<StoredMatrixBuffer> matrices;  // Until the file is written.
  matrices.reserve(parameters.size());
  std::vector<TensorToStore> tensors;
  std::vector<QuantizedFigures> all_figures;
  int64_t done = 0, total = 0;
  for (const ParameterInfo& parameter : parameters) total += parameter.shape.num_elements();
  for (const ParameterInfo& parameter : parameters) {
    const TensorView values = model.table().View(parameter, model.parameters());
    const int64_t elements = values.num_elements();
    QuantizedFigures figures;
    figures.name = parameter.name;
    figures.bytes_before = figures.bytes_after =
        elements * static_cast<int64_t>(SizeOf(StoredType(parameter)));
    figures.format = config.FormatOf(parameter.name);
    if (figures.format == WeightFormat::kFloat) {
      tensors.push_back({parameter.name, values, StoredType(parameter)});
    } else {
      const Buffer importance = ImportanceOf(parameter, options);
      matrices.push_back(Quantize(parameter, values, figures.format, importance, options.rounding));
      figures.bytes_after = AddStored(parameter, matrices.back().view(), tensors);
      MeasureErrors(values.Reshape(parameter.RowShape()), matrices.back().view(), importance, figures);
    }
    all_figures.push_back(figures);
    on_progress(done += elements, total);
  }
  const std::vector<std::string> profiles = std::move(config.router_profiles);
  config.router_profiles.clear();
  CopyFile(source.tokenizer_file(), files.tokenizer_file());
  CopyFile(source.generation_file(), files.generation_file());
  if (std::filesystem::exists(source.codebooks_file()))
    CopyFile(source.codebooks_file(), files.codebooks_file());
  WriteModelConfig(files.config_file(), config);
  WriteSafetensors(files.weights_file(), tensors, {{"format", "pt"}});
  for (const std::string& name : profiles) {
    WriteRouterProfile(files, model, ReadRouterProfile(source, model, name));
  }
  folder.Commit();
  return all_figures;
}

}  // namespace sluice
