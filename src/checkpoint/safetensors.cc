// Reading safetensors files: every number of the header is checked before it is used.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "checkpoint/safetensors_format.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

constexpr size_t kVerifyBytes = size_t{16} << 20;

using Json = nlohmann::ordered_json;

constexpr std::string_view kCopyAgain = "download or copy it again";

// "1,234,567".
std::string WithCommas(uint64_t n) {
  const std::string digits = std::to_string(n);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

[[noreturn]] void Fail(const std::filesystem::path& path, const std::string& what) {
  throw InputError("{}: {}: {}", path.string(), what, kCopyAgain);
}

uint64_t ReadLength(const std::byte* bytes) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = (length << 8) | std::to_integer<uint64_t>(bytes[i]);
  return length;
}

// The header as JSON. nlohmann's parser keeps the last of two equal keys, so they are looked for here.
Json ParseJson(const std::filesystem::path& path, std::string_view header) {
  std::set<std::string> names;
  std::optional<std::string> duplicate;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.insert(name).second) duplicate = name;
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(header, watch);
  } catch (const Json::exception& error) {
    Fail(path, fmt::format("the header is not valid JSON ({})", error.what()));
  }
  if (!json.is_object()) Fail(path, "the header is not a JSON object");
  if (duplicate) Fail(path, fmt::format("the header names tensor '{}' twice", *duplicate));
  return json;
}

Shape ShapeOf(const std::vector<int64_t>& dims) {
  switch (dims.size()) {
    case 0:
      return Shape{};
    case 1:
      return Shape{dims[0]};
    case 2:
      return Shape{dims[0], dims[1]};
    case 3:
      return Shape{dims[0], dims[1], dims[2]};
    default:
      return Shape{dims[0], dims[1], dims[2], dims[3]};
  }
}

// One entry of the header; `what` tells a caller what is wrong with it.
StoredTensor ParseTensor(const std::string& name, const Json& entry, std::string& what) {
  StoredTensor tensor;
  tensor.name = name;
  const auto field = [&](const char* key) -> const Json* {
    const auto it = entry.find(key);
    return it == entry.end() ? nullptr : &*it;
  };
  if (!entry.is_object()) return what = "its entry is not an object", tensor;
  const Json* type = field("dtype");
  if (!type || !type->is_string()) return what = "it has no dtype", tensor;
  const auto dtype = safetensors::TypeOfName(type->get_ref<const std::string&>());
  if (!dtype) {
    what = fmt::format("its dtype '{}' is not one of F64, F32, BF16, F16, I64, I32, I8, U8",
                       type->get_ref<const std::string&>());
    return tensor;
  }
  tensor.dtype = *dtype;
  const Json* shape = field("shape");
  if (!shape || !shape->is_array()) return what = "it has no shape", tensor;
  if (shape->size() > static_cast<size_t>(Shape::kMaxRank)) {
    return what =
               fmt::format("it has {} dimensions, at most {} are supported", shape->size(), Shape::kMaxRank),
           tensor;
  }
  std::vector<int64_t> dims;
  int64_t size = static_cast<int64_t>(SizeOf(*dtype));
  int64_t size_of_nonzero = size;  // Without zero dimensions, so that strides cannot overflow either.
  for (const Json& dim : *shape) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{INT64_MAX}) {
      return what = "its shape holds something else than whole numbers", tensor;
    }
    dims.push_back(dim.get<int64_t>());
    const int64_t factor = std::max<int64_t>(dims.back(), 1);
    if (__builtin_mul_overflow(size_of_nonzero, factor, &size_of_nonzero))
      return what = "its shape is too large", tensor;
    size *= dims.back();
  }
  tensor.shape = ShapeOf(dims);
  const Json* offsets = field("data_offsets");
  if (!offsets || !offsets->is_array() || offsets->size() != 2 || !(*offsets)[0].is_number_unsigned() ||
      !(*offsets)[1].is_number_unsigned()) {
    return what = "its data_offsets are not two whole numbers", tensor;
  }
  tensor.begin = (*offsets)[0].get<uint64_t>();
  tensor.end = (*offsets)[1].get<uint64_t>();
  if (tensor.begin > tensor.end) {
    what = fmt::format("its data begin at {} and end before that, at {}", tensor.begin, tensor.end);
  } else if (tensor.end - tensor.begin != static_cast<uint64_t>(size)) {
    what = fmt::format("its shape {} of {} takes {} bytes, its offsets span {}", tensor.shape.ToString(),
                       safetensors::NameOfType(*dtype), WithCommas(static_cast<uint64_t>(size)),
                       WithCommas(tensor.end - tensor.begin));
  }
  return tensor;
}

void ConvertRow(const std::byte* source, DType dtype, float* destination, int64_t n) {
  const auto convert = [&]<class Stored>(Stored, auto&& to_float) {
    for (int64_t i = 0; i < n; ++i) {
      Stored value;  // memcpy: other programs' files may hold it at any address.
      std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
      destination[i] = to_float(value);
    }
  };
  switch (dtype) {
    case DType::kF32:
      std::memcpy(destination, source, static_cast<size_t>(n) * sizeof(float));
      break;
    case DType::kBF16:
      convert(uint16_t{}, FloatFromBF16);
      break;
    case DType::kF16:
      convert(uint16_t{}, FloatFromF16);
      break;
    default:
      convert(double{}, [](double value) { return static_cast<float>(value); });
      break;
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const auto bytes = file_.bytes();
  if (bytes.size() < safetensors::kLengthBytes) {
    Fail(path, fmt::format("has {} bytes, too few for a safetensors file", bytes.size()));
  }
  const uint64_t header_bytes = ReadLength(bytes.data());
  if (header_bytes > safetensors::kMaxHeaderBytes) {
    throw InputError(
        "{}: its first 8 bytes give a header of {} bytes, at most {} are allowed: it is not a "
        "safetensors file or it is damaged; {}",
        path.string(), WithCommas(header_bytes), WithCommas(safetensors::kMaxHeaderBytes), kCopyAgain);
  }
  data_offset_ = safetensors::kLengthBytes + header_bytes;
  if (bytes.size() < data_offset_) {
    Fail(path, fmt::format("has {} bytes, its header alone promises {}", WithCommas(bytes.size()),
                           WithCommas(data_offset_)));
  }
  ParseHeader(file_.text().substr(safetensors::kLengthBytes, header_bytes), bytes.size() - data_offset_);
}

void SafetensorsFile::ParseHeader(std::string_view header, uint64_t data_bytes) {
  const Json json = ParseJson(path(), header);
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) Fail(path(), "__metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) Fail(path(), fmt::format("__metadata__ entry '{}' is not a string", key));
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    std::string what;
    tensors_.push_back(ParseTensor(name, entry, what));
    if (!what.empty()) Fail(path(), fmt::format("tensor '{}' is wrong: {}", name, what));
  }
  CheckCoverage(data_bytes);
  for (size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

// The tensors, sorted by place, must tile the data section exactly.
void SafetensorsFile::CheckCoverage(uint64_t data_bytes) {
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t end = 0;
  const StoredTensor* previous = nullptr;
  for (const StoredTensor& tensor : tensors_) {
    if (tensor.begin < end) {
      Fail(path(), fmt::format("tensors '{}' and '{}' overlap", previous->name, tensor.name));
    }
    if (tensor.begin > end) {
      Fail(path(), fmt::format("{} bytes before tensor '{}' belong to no tensor",
                               WithCommas(tensor.begin - end), tensor.name));
    }
    end = tensor.end;
    previous = &tensor;
  }
  if (end != data_bytes) {
    Fail(path(), fmt::format("has {} bytes, its header promises {}", WithCommas(file_.bytes().size()),
                             WithCommas(data_offset_ + end)));
  }
}

const StoredTensor& SafetensorsFile::Find(std::string_view name) const {
  const auto it = index_.find(name);
  if (it == index_.end()) {
    throw InputError(
        "{}: holds no tensor '{}' (it holds {} others): use the weights that belong to this config",
        path().string(), name, tensors_.size());
  }
  return tensors_[it->second];
}

TensorView SafetensorsFile::View(std::string_view name) const {
  const StoredTensor& tensor = Find(name);
  const std::byte* address = data_begin() + tensor.begin;
  if (std::bit_cast<uintptr_t>(address) % SizeOf(tensor.dtype) != 0) {
    throw InputError(
        "{}: tensor '{}' does not lie at a multiple of its element size of {} bytes: write the file "
        "again with aligned tensors",
        path().string(), name, SizeOf(tensor.dtype));
  }
  return TensorView(const_cast<std::byte*>(address), tensor.dtype, tensor.shape);
}

void SafetensorsFile::ReadInto(std::string_view name, const TensorView& destination) const {
  const StoredTensor& tensor = Find(name);
  if (!(tensor.shape == destination.shape())) {
    throw InputError(
        "{}: tensor '{}' has shape {}, the model needs {}: use the weights that belong to this config",
        path().string(), name, tensor.shape.ToString(), destination.shape().ToString());
  }
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16 &&
      tensor.dtype != DType::kF64) {
    throw InputError(
        "{}: tensor '{}' has type {}, the model needs F32, BF16, F16 or F64: convert the weights",
        path().string(), name, safetensors::NameOfType(tensor.dtype));
  }
  float* out = destination.data<float>();
  const int64_t num_elements = destination.num_elements();
  if (num_elements == 0) return;
  const int64_t num_rows = destination.rank() == 0 ? 1 : destination.dim(0);
  const int64_t per_row = num_elements / num_rows;
  const int64_t stride = destination.rank() == 0 ? 0 : destination.row_stride();
  const int64_t row_bytes = per_row * static_cast<int64_t>(SizeOf(tensor.dtype));
  for (int64_t row = 0; row < num_rows; ++row) {
    ConvertRow(data_begin() + tensor.begin + row * row_bytes, tensor.dtype, out + row * stride, per_row);
  }
}

std::string SafetensorsFile::Checksum() const {
  const auto recorded = metadata_.find(std::string(safetensors::kChecksumKey));
  if (recorded != metadata_.end()) return recorded->second;
  const std::string_view body = file_.text().substr(safetensors::kLengthBytes);
  safetensors::Checksum checksum;
  checksum.Add(body.data(), body.size());
  return checksum.Digits();
}

void SafetensorsFile::Forget(std::string_view name) const {
  const StoredTensor& tensor = Find(name);
  file_.Forget(data_offset_ + tensor.begin, data_offset_ + tensor.end);
}

bool SafetensorsFile::Verify() const {
  const auto recorded = metadata_.find(std::string(safetensors::kChecksumKey));
  if (recorded == metadata_.end()) return false;
  const std::string_view body = file_.text().substr(safetensors::kLengthBytes);
  const std::string_view header = body.substr(0, data_offset_ - safetensors::kLengthBytes);
  const size_t digits = safetensors::FindChecksum(header, recorded->second);
  if (digits == std::string_view::npos) Fail(path(), "its checksum is not 16 hexadecimal digits");
  safetensors::Checksum checksum;
  checksum.Add(body.data(), digits);
  checksum.Add(safetensors::kChecksumZeros.data(), safetensors::kChecksumDigits);
  // Piece by piece, so that a large file does not lie in memory as a whole beside what is made of it.
  for (size_t begin = digits + safetensors::kChecksumDigits; begin < body.size(); begin += kVerifyBytes) {
    const size_t count = std::min(kVerifyBytes, body.size() - begin);
    checksum.Add(body.data() + begin, count);
    file_.Forget(safetensors::kLengthBytes + begin, safetensors::kLengthBytes + begin + count);
  }
  const std::string found = checksum.Digits();
  if (found != recorded->second) {
    Fail(path(),
         fmt::format("is damaged: its checksum is {}, its header records {}", found, recorded->second));
  }
  return true;
}

}  // namespace sluice
