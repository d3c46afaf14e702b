// Writing safetensors files: two passes over the tensors, first for the checksum that the header
// carries, then to the disk. Conversion goes through one small buffer, so that a model needs no second
// copy of itself in memory.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_format.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
constexpr int64_t kChunkElements = 1 << 16;

uint64_t StoredBytes(const TensorToStore& tensor) {
  return static_cast<uint64_t>(tensor.values.num_elements()) * SizeOf(tensor.stored);
}

std::vector<const TensorToStore*> InFileOrder(const std::vector<TensorToStore>& tensors) {
  std::vector<const TensorToStore*> order;
  std::set<std::string_view> names;
  for (const TensorToStore& tensor : tensors) {
    if (!names.insert(tensor.name).second || tensor.name == "__metadata__") {
      throw InputError("cannot write tensor '{}': the name is already taken; give every tensor its own",
                       tensor.name);
    }
    const DType from = tensor.values.dtype();
    const bool rounds =
        from == DType::kF32 && (tensor.stored == DType::kBF16 || tensor.stored == DType::kF16);
    SLUICE_CHECK(tensor.values.present() && (from == tensor.stored || rounds));
    SLUICE_CHECK(!safetensors::NameOfType(tensor.stored).empty());
    order.push_back(&tensor);
  }
  const auto aligned = [](const TensorToStore* tensor) {
    return StoredBytes(*tensor) % safetensors::kAlignment == 0;
  };
  std::stable_sort(order.begin(), order.end(), [&](const TensorToStore* a, const TensorToStore* b) {
    if (aligned(a) != aligned(b)) return aligned(a);
    return !aligned(a) && SizeOf(a->stored) > SizeOf(b->stored);
  });
  return order;
}

// The header's text with zeros for a checksum, padded so that the data start at a multiple of 64.
std::string HeaderText(const std::filesystem::path& path, const std::vector<const TensorToStore*>& order,
                       const std::map<std::string, std::string>& metadata) {
  Json json = Json::object();
  // First, so that the checksum's key cannot be preceded by a value that looks like it.
  json["__metadata__"][std::string(safetensors::kChecksumKey)] = safetensors::kChecksumZeros;
  for (const auto& [key, value] : metadata) {
    if (key != safetensors::kChecksumKey) json["__metadata__"][key] = value;
  }
  uint64_t begin = 0;
  for (const TensorToStore* tensor : order) {
    const uint64_t end = begin + StoredBytes(*tensor);
    Json shape = Json::array();
    for (int axis = 0; axis < tensor->values.rank(); ++axis)
      shape.push_back(static_cast<uint64_t>(tensor->values.dim(axis)));
    json[tensor->name] = {
        {"dtype", safetensors::NameOfType(tensor->stored)}, {"shape", shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text;
  try {
    text = json.dump();
  } catch (const Json::exception& error) {
    throw InputError("cannot write {}: a tensor name or metadata text is not valid UTF-8 ({})", path.string(),
                     error.what());
  }
  while ((safetensors::kLengthBytes + text.size()) % safetensors::kAlignment != 0) text += ' ';
  return text;
}

// Calls sink(bytes, size) for the tensor's bytes as stored, in order.
template <class Sink>
void ForEachPiece(const TensorToStore& tensor, const Sink& sink) {
  const TensorView& values = tensor.values;
  const int64_t num_elements = values.num_elements();
  if (num_elements == 0) return;
  const int64_t num_rows = values.rank() == 0 || values.contiguous() ? 1 : values.dim(0);
  const int64_t per_row = num_elements / num_rows;
  const size_t element = SizeOf(values.dtype());
  std::vector<uint16_t> rounded;
  for (int64_t row = 0; row < num_rows; ++row) {
    const std::byte* source = static_cast<const std::byte*>(values.raw()) +
                              static_cast<size_t>(num_rows == 1 ? 0 : row * values.row_stride()) * element;
    if (values.dtype() == tensor.stored) {
      sink(source, static_cast<size_t>(per_row) * element);
      continue;
    }
    const float* floats = reinterpret_cast<const float*>(source);
    for (int64_t begin = 0; begin < per_row; begin += kChunkElements) {
      const int64_t count = std::min(kChunkElements, per_row - begin);
      rounded.resize(static_cast<size_t>(count));
      const bool bf16 = tensor.stored == DType::kBF16;
      for (int64_t i = 0; i < count; ++i) {
        rounded[static_cast<size_t>(i)] =
            bf16 ? BF16FromFloat(floats[begin + i]) : F16FromFloat(floats[begin + i]);
      }
      sink(reinterpret_cast<const std::byte*>(rounded.data()), static_cast<size_t>(count) * sizeof(uint16_t));
    }
  }
}

}  // namespace

void WriteSafetensors(const std::filesystem::path& path, const std::vector<TensorToStore>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  const auto order = InFileOrder(tensors);
  std::string header = HeaderText(path, order, metadata);
  safetensors::Checksum checksum;
  checksum.Add(header.data(), header.size());
  for (const TensorToStore* tensor : order) {
    ForEachPiece(*tensor, [&](const std::byte* bytes, size_t size) { checksum.Add(bytes, size); });
  }
  const size_t digits = safetensors::FindChecksum(header, safetensors::kChecksumZeros);
  SLUICE_CHECK_NE(digits, std::string::npos);
  header.replace(digits, safetensors::kChecksumDigits, checksum.Digits());

  std::byte length[safetensors::kLengthBytes];
  for (size_t i = 0; i < safetensors::kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(static_cast<uint64_t>(header.size()) >> (8 * i));
  }
  AtomicFile file(path);
  file.Write(std::span<const std::byte>(length));
  file.Write(header);
  for (const TensorToStore* tensor : order) {
    ForEachPiece(*tensor, [&](const std::byte* bytes, size_t size) {
      file.Write(std::span<const std::byte>(bytes, size));
    });
  }
  file.Commit();
}

}  // namespace sluice
