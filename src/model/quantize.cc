#include "model/quantize.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "model/router_profile.h"
#include "tensor/float16.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

// A folder under a temporary name; it goes away again unless it is committed.
class PendingFolder {
 public:
  explicit PendingFolder(const fs::path& path) : path_(path), temporary_(path) {
    if (fs::exists(path_)) {
      throw InputError("{}: exists already; name a folder that does not, or remove it", path_.string());
    }
    temporary_ += ".tmp";
    std::error_code error;
    fs::remove_all(temporary_, error);  // Of a run that was killed.
    fs::create_directories(temporary_, error);
    if (error) throw SystemError("{}: cannot make the folder: {}", temporary_.string(), error.message());
  }
  ~PendingFolder() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(temporary_, ignored);
  }
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const fs::path& temporary() const { return temporary_; }
  void Commit() {
    std::error_code error;
    fs::rename(temporary_, path_, error);
    if (error)
      throw SystemError("{}: cannot rename the finished folder to it: {}", path_.string(), error.message());
    committed_ = true;
    SyncDirectory(fs::absolute(path_).parent_path());
  }

 private:
  fs::path path_;
  fs::path temporary_;
  bool committed_ = false;
};

// Codes and scales, row after row, as files hold them.
struct StoredCodes {
  explicit StoredCodes(const Shape& rows)
      : codes(DType::kI8, rows), scales(DType::kF16, {rows[0], rows[1] / QuantizedMatrix::kBlock}) {}
  Buffer codes;
  Buffer scales;
};

double LargestError(const TensorView& weights, const StoredCodes& stored) {
  const auto* scales = static_cast<const uint16_t*>(stored.scales.view().raw());
  const float* w = weights.data<float>();
  const int8_t* codes = stored.codes.view().data<int8_t>();
  double worst = 0;
  for (int64_t begin = 0; begin < weights.num_elements(); begin += QuantizedMatrix::kBlock) {
    const double scale = FloatFromF16(scales[begin / QuantizedMatrix::kBlock]);
    double error = 0, largest = 0;
    for (int64_t i = begin; i < begin + QuantizedMatrix::kBlock; ++i) {
      error = std::max(error, std::abs(w[i] - scale * codes[i]));
      largest = std::max(largest, std::abs(static_cast<double>(w[i])));
    }
    if (largest > 0) worst = std::max(worst, error / largest);
  }
  return worst;
}

bool IsChosen(const ParameterInfo& parameter, const QuantizeOptions& options) {
  return parameter.CanBeQuantized() && (options.gates || parameter.kind != ParameterKind::kGate);
}

ModelConfig QuantizedConfig(const Model& model, const QuantizeOptions& options) {
  ModelConfig config = model.config();
  for (const ParameterInfo& parameter : model.table().parameters()) {
    if (IsChosen(parameter, options)) config.quantization[parameter.name] = options.format;
  }
  return config;
}

StoredCodes Quantize(const ParameterInfo& parameter, const TensorView& values) {
  StoredCodes stored(parameter.RowShape());
  QuantizeRows(values.Reshape(parameter.RowShape()), stored.codes, stored.scales, parameter.name.c_str());
  return stored;
}

// The scales have the parameter's own leading axes.
TensorView ShapedScales(const ParameterInfo& parameter, const Buffer& scales) {
  if (parameter.shape.rank() == 2) return scales;
  return scales.view().Reshape({parameter.shape[0], parameter.shape[1], scales.view().dim(1)});
}

void CopyFile(const fs::path& from, const fs::path& to) {
  if (fs::exists(from)) WriteFileAtomically(to, ReadFile(from));
}

}  // namespace

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
      const StoredCodes stored = Quantize(before[i], values);
      quantized->Quantized(after[i].name).Pack(stored.codes, stored.scales);
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
  PendingFolder folder(output);
  const ModelFolder files{folder.temporary()};
  const std::vector<ParameterInfo>& parameters = model.table().parameters();
  std::vector<StoredCodes> codes;
  codes.reserve(parameters.size());
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
    if (IsChosen(parameter, options)) {
      const StoredCodes& stored = codes.emplace_back(Quantize(parameter, values));
      tensors.push_back({parameter.name, stored.codes.view().Reshape(parameter.shape), DType::kI8});
      tensors.push_back({ScalesName(parameter.name), ShapedScales(parameter, stored.scales), DType::kF16});
      figures.format = options.format;
      figures.bytes_after =
          elements + stored.scales.view().num_elements() * static_cast<int64_t>(sizeof(uint16_t));
      figures.largest_error = LargestError(values, stored);
    } else {
      tensors.push_back({parameter.name, values, StoredType(parameter)});
    }
    all_figures.push_back(figures);
    on_progress(done += elements, total);
  }
  ModelConfig config = QuantizedConfig(model, options);
  const std::vector<std::string> profiles = std::move(config.router_profiles);
  config.router_profiles.clear();
  CopyFile(source.tokenizer_file(), files.tokenizer_file());
  CopyFile(source.generation_file(), files.generation_file());
  WriteModelConfig(files.config_file(), config);
  WriteSafetensors(files.weights_file(), tensors, {{"format", "pt"}});
  for (const std::string& name : profiles) {
    WriteRouterProfile(files, model, ReadRouterProfile(source, model, name));
  }
  folder.Commit();
  return all_figures;
}

}  // namespace sluice
