// Round trips, then damage: every truncation, flipped bits, and headers that lie. Whatever comes,
// the reader throws InputError or the file is found to be different; it never reads out of bounds (the
// sanitizer builds run this too).
#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <numeric>

#include "base/random.h"

namespace sluice {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("sluice_safetensors_" + std::to_string(getpid()) + "_" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    path_ = folder_ / "model.safetensors";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void WriteRaw(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  // A file with this header and `data_bytes` bytes of zeros behind it.
  void WriteHeader(const std::string& header, size_t data_bytes) const {
    std::string bytes(8, '\0');
    const uint64_t length = header.size();
    std::memcpy(bytes.data(), &length, sizeof(length));
    WriteRaw(bytes + header + std::string(data_bytes, '\0'));
  }
  std::string ErrorOf(const std::string& header, size_t data_bytes) const {
    WriteHeader(header, data_bytes);
    try {
      SafetensorsFile file(path_);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }
  // A small file of four types.
  std::string WriteSample() {
    Random random(7);
    Buffer weight(DType::kF32, {3, 5});
    for (int i = 0; i < 15; ++i) weight.view().data<float>()[i] = static_cast<float>(random.Normal());
    Buffer aligned(DType::kF32, {4, 16});
    aligned.view().data<float>()[63] = 2.5f;
    Buffer bytes(DType::kI8, {7});
    Buffer steps(DType::kI64, {1});
    WriteSafetensors(path_,
                     {{"bytes", bytes, DType::kI8},
                      {"weight", weight, DType::kBF16},
                      {"steps", steps, DType::kI64},
                      {"aligned", aligned, DType::kF32}},
                     {{"format", "pt"}});
    return ReadFile(path_);
  }

  std::filesystem::path folder_;
  std::filesystem::path path_;
};

TEST_F(SafetensorsTest, RoundTripsEveryType) {
  Buffer f32(DType::kF32, {2, 3});
  Buffer f64(DType::kF64, {3});
  Buffer i32(DType::kI32, {2, 1, 2});
  Buffer i64(DType::kI64, {2});
  Buffer i8(DType::kI8, {5});
  Buffer u8(DType::kU8, {3});
  for (int i = 0; i < 6; ++i) f32.view().data<float>()[i] = 0.1f * static_cast<float>(i);
  for (int i = 0; i < 3; ++i) f64.view().data<double>()[i] = 0.1 * i;
  for (int i = 0; i < 4; ++i) i32.view().data<int32_t>()[i] = -i;
  for (int i = 0; i < 2; ++i) i64.view().data<int64_t>()[i] = int64_t{1} << (40 + i);
  for (int i = 0; i < 5; ++i) i8.view().data<int8_t>()[i] = static_cast<int8_t>(-i);
  for (int i = 0; i < 3; ++i) u8.view().data<uint8_t>()[i] = static_cast<uint8_t>(250 + i);
  const std::vector<TensorToStore> tensors = {{"u8", u8, DType::kU8},    {"i8", i8, DType::kI8},
                                              {"f32", f32, DType::kF32}, {"f64", f64, DType::kF64},
                                              {"i32", i32, DType::kI32}, {"i64", i64, DType::kI64}};
  WriteSafetensors(path_, tensors, {{"format", "pt"}, {"step", "12"}});

  const SafetensorsFile file(path_);
  EXPECT_TRUE(file.Verify());
  EXPECT_EQ(file.metadata().at("step"), "12");
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const TensorToStore& tensor : tensors) {
    const TensorView view = file.View(tensor.name);
    EXPECT_EQ(view.dtype(), tensor.stored) << tensor.name;
    ASSERT_EQ(view.shape(), tensor.values.shape()) << tensor.name;
    EXPECT_EQ(0, std::memcmp(view.raw(), tensor.values.raw(),
                             static_cast<size_t>(view.num_elements()) * SizeOf(view.dtype())))
        << tensor.name;
  }
}

TEST_F(SafetensorsTest, RoundsToBF16AndF16AndReadsThemBack) {
  Buffer values(DType::kF32, {300, 300});  // More than one chunk of conversion.
  Random random(1);
  float* data = values.view().data<float>();
  for (int i = 0; i < 90'000; ++i) data[i] = static_cast<float>(random.Normal());
  WriteSafetensors(path_, {{"half", values, DType::kF16}, {"brain", values, DType::kBF16}});
  const SafetensorsFile file(path_);
  Buffer half(DType::kF32, {300, 300}), brain(DType::kF32, {300, 300});
  file.ReadInto("half", half);
  file.ReadInto("brain", brain);
  for (int i = 0; i < 90'000; ++i) {
    ASSERT_LE(std::abs(half.view().data<float>()[i] - data[i]), std::abs(data[i]) * 0x1p-11f + 0x1p-25f) << i;
    ASSERT_LE(std::abs(brain.view().data<float>()[i] - data[i]), std::abs(data[i]) * 0x1p-8f) << i;
    ASSERT_EQ(brain.view().data<float>()[i], FloatFromBF16(BF16FromFloat(data[i]))) << i;
  }
}

TEST_F(SafetensorsTest, WritesAndReadsStridedRows) {
  std::vector<float> wide(4 * 6);
  std::iota(wide.begin(), wide.end(), 0.0f);
  const TensorView columns(wide.data(), DType::kF32, Shape{4, 3}, 6);
  WriteSafetensors(path_, {{"exact", columns, DType::kF32}, {"rounded", columns, DType::kBF16}});
  const SafetensorsFile file(path_);
  for (const char* name : {"exact", "rounded"}) {
    std::vector<float> back(4 * 5, -1.0f);
    file.ReadInto(name, TensorView(back.data(), DType::kF32, Shape{4, 3}, 5));
    for (int row = 0; row < 4; ++row) {
      for (int column = 0; column < 5; ++column) {
        EXPECT_EQ(back[row * 5 + column], column < 3 ? wide[row * 6 + column] : -1.0f) << name;
      }
    }
  }
}

TEST_F(SafetensorsTest, AlignsDataAndKeepsEdgeShapes) {
  WriteSample();
  Buffer empty(DType::kF32, {0, 4});
  Buffer scalar(DType::kF32, Shape{});
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.tensors().front().name, "aligned");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.View("aligned").raw()) % 64, 0u);
  const auto other = folder_ / "edges.safetensors";
  WriteSafetensors(other, {{"empty", empty, DType::kF32}, {"scalar", scalar, DType::kBF16}});
  const SafetensorsFile edges(other);
  EXPECT_EQ(edges.View("empty").num_elements(), 0);
  EXPECT_EQ(edges.Find("scalar").shape.rank(), 0);
  WriteSafetensors(other, {});
  EXPECT_TRUE(SafetensorsFile(other).tensors().empty());
}

TEST_F(SafetensorsTest, EveryTruncationIsAnInputError) {
  const std::string bytes = WriteSample();
  for (size_t size = 0; size < bytes.size(); ++size) {
    WriteRaw(bytes.substr(0, size));
    EXPECT_THROW(SafetensorsFile{path_}, InputError) << size;
  }
  WriteRaw(bytes + "x");
  EXPECT_THROW(SafetensorsFile{path_}, InputError);
}

// One bit of every byte, a different one from byte to byte; all bits of the length.
TEST_F(SafetensorsTest, FlippedBitsAreFound) {
  const std::string bytes = WriteSample();
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    if (bit >= 64 && bit % 8 != bit / 8 * 5 % 8) continue;
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    WriteRaw(damaged);
    bool found = false;
    try {
      const SafetensorsFile file(path_);
      for (const StoredTensor& tensor : file.tensors()) file.View(tensor.name);
      found = !file.Verify();  // Only where the checksum's own key was hit.
    } catch (const InputError&) {
      found = true;
    }
    EXPECT_TRUE(found) << "bit " << bit % 8 << " of byte " << bit / 8;
  }
}

TEST_F(SafetensorsTest, RandomHeadersNeverCrash) {
  const std::string bytes = WriteSample();
  Random random(3);
  for (int round = 0; round < 500; ++round) {
    std::string damaged = bytes;
    for (uint64_t n = 1 + random.Below(8); n > 0; --n) {
      const char alphabet[] = "0123456789[]{}\",:eE.-\\u\xff\x00";
      damaged[8 + random.Below(bytes.size() - 8)] = alphabet[random.Below(sizeof(alphabet) - 1)];
    }
    WriteRaw(damaged);
    try {
      const SafetensorsFile file(path_);
      for (const StoredTensor& tensor : file.tensors()) {
        if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16) continue;
        Buffer copy(DType::kF32, tensor.shape);
        file.ReadInto(tensor.name, copy);
      }
      file.Verify();
    } catch (const InputError&) {
    }
  }
}

TEST_F(SafetensorsTest, NamesWhatIsWrongAndWhatToDo) {
  using ::testing::HasSubstr;
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "no error");
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[2000],"data_offsets":[0,8000]}})", 8),
              AllOf(HasSubstr(path_.string()), HasSubstr("has 76 bytes, its header promises 8,068"),
                    HasSubstr("download or copy it again")));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
              HasSubstr("takes 12 bytes"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})", 8),
              HasSubstr("F8_E4M3"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1,1,1,1,8],"data_offsets":[0,8]}})", 8),
              HasSubstr("5 dimensions"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 8),
              HasSubstr("end before"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0),
              HasSubstr("too large"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}})", 8),
              HasSubstr("whole numbers"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                      6),
              HasSubstr("overlap"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6), HasSubstr("no tensor"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                      4),
              HasSubstr("twice"));
  EXPECT_THAT(ErrorOf("[1]", 0), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorOf("{", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(R"({"__metadata__":{"a":1}})", 0), HasSubstr("not a string"));
  WriteRaw("this is a text file, not weights");
  EXPECT_THROW(SafetensorsFile{path_}, InputError);
  EXPECT_THROW(SafetensorsFile{folder_ / "absent.safetensors"}, InputError);
}

TEST_F(SafetensorsTest, ReadIntoChecksNameShapeAndType) {
  WriteSample();
  const SafetensorsFile file(path_);
  Buffer right(DType::kF32, {3, 5}), wrong(DType::kF32, {5, 3}), seven(DType::kF32, {7});
  EXPECT_NO_THROW(file.ReadInto("weight", right));
  EXPECT_THROW(file.ReadInto("weight", wrong), InputError);
  EXPECT_THROW(file.ReadInto("bytes", seven), InputError);
  EXPECT_THROW(file.ReadInto("absent", right), InputError);
}

TEST_F(SafetensorsTest, ReadIntoWorksAtOddAddresses) {
  std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  WriteHeader(header, 9);
  const SafetensorsFile file(path_);
  Buffer copy(DType::kF32, {2});
  EXPECT_NO_THROW(file.ReadInto("b", copy));
  EXPECT_THROW(file.View("b"), InputError);
  EXPECT_FALSE(file.Verify());  // No checksum inside.
}

TEST_F(SafetensorsTest, RefusesBadNamesAndLeavesTheOldFile) {
  const std::string before = WriteSample();
  Buffer one(DType::kF32, {1});
  EXPECT_THROW(WriteSafetensors(path_, {{"a", one, DType::kF32}, {"a", one, DType::kF32}}), InputError);
  EXPECT_THROW(WriteSafetensors(path_, {{"__metadata__", one, DType::kF32}}), InputError);
  EXPECT_THROW(WriteSafetensors(path_, {{"\xff", one, DType::kF32}}), InputError);
  EXPECT_THROW(WriteSafetensors(folder_ / "no" / "such" / "folder", {{"a", one, DType::kF32}}), SystemError);
  EXPECT_EQ(ReadFile(path_), before);
}

}  // namespace
}  // namespace sluice
