// Shapes, views and their memory. Views check their bounds here, once per view made; element access
// in kernels is plain pointers.
#include "tensor/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sluice {
namespace {

constexpr size_t kAlignment = 64;  // A cache line, and the widest vector.
constexpr size_t kMinBlockBytes = size_t{1} << 20;
constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kHugePagesFrom = 4 * kHugePage;

size_t RoundUp(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

// Large blocks ask for huge pages: a selected key is read from anywhere in hundreds of megabytes, and with
// pages of 4 KiB finding the page costs more than the read.
void* AllocateAligned(size_t bytes) {
  const size_t alignment = bytes >= kHugePagesFrom ? kHugePage : kAlignment;
  const size_t size = RoundUp(std::max(bytes, kAlignment), alignment);
  void* memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) throw SystemError("out of memory: {} MiB more are needed", (bytes >> 20) + 1);
  if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // A hint: without it all still works.
  return memory;
}

void FreeAligned(void* memory) {
  std::free(memory);
}

// Zeros that take no memory before they are written, aligned to huge pages.
void* MapZeroed(size_t size) {
  void* memory = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw SystemError("out of memory: {} MiB more are needed", (size >> 20) + 1);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t aligned = RoundUp(begin, kHugePage);
  if (aligned > begin) munmap(memory, aligned - begin);
  if (aligned < begin + kHugePage)
    munmap(reinterpret_cast<void*>(aligned + size), begin + kHugePage - aligned);
  madvise(reinterpret_cast<void*>(aligned), size, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(aligned);
}

// Elements of one index of the first axis, inner axes contiguous.
int64_t InnerElements(const Shape& shape) {
  int64_t n = 1;
  for (int axis = 1; axis < shape.rank(); ++axis) n *= shape[axis];
  return n;
}

Shape WithFirst(const Shape& shape, int64_t first) {
  switch (shape.rank()) {
    case 1:
      return {first};
    case 2:
      return {first, shape[1]};
    case 3:
      return {first, shape[1], shape[2]};
    default:
      return {first, shape[1], shape[2], shape[3]};
  }
}

Shape WithoutFirst(const Shape& shape) {
  switch (shape.rank()) {
    case 1:
      return {};
    case 2:
      return {shape[1]};
    case 3:
      return {shape[1], shape[2]};
    default:
      return {shape[1], shape[2], shape[3]};
  }
}

void* Advance(void* data, DType dtype, int64_t elements) {
  return static_cast<std::byte*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace

Shape::Shape(std::initializer_list<int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  SLUICE_CHECK_LE(dims.size(), static_cast<size_t>(kMaxRank));
  for (const int64_t dim : dims) SLUICE_CHECK_GE(dim, 0);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::num_elements() const {
  int64_t n = 1;
  for (int axis = 0; axis < rank_; ++axis) n *= dims_[static_cast<size_t>(axis)];
  return n;
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) text += fmt::format("{}{}", axis ? ", " : "", (*this)[axis]);
  return text + "]";
}

TensorView::TensorView(void* data, DType dtype, Shape shape)
    : TensorView(data, dtype, shape, InnerElements(shape)) {}

TensorView::TensorView(void* data, DType dtype, Shape shape, int64_t row_stride)
    : data_(data), shape_(shape), row_stride_(row_stride), dtype_(dtype), dtype_known_(true) {}

bool TensorView::contiguous() const {
  return rank() == 0 || dim(0) <= 1 || row_stride_ == InnerElements(shape_);
}

TensorView TensorView::Rows(int64_t begin, int64_t end) const {
  SLUICE_CHECK_GE(rank(), 1);
  SLUICE_CHECK_LE(0, begin);
  SLUICE_CHECK_LE(begin, end);
  SLUICE_CHECK_LE(end, dim(0));
  return TensorView(Advance(data_, dtype_, begin * row_stride_), dtype_, WithFirst(shape_, end - begin),
                    row_stride_);
}

TensorView TensorView::At(int64_t i) const {
  SLUICE_CHECK_GE(rank(), 1);
  SLUICE_CHECK_LE(0, i);
  SLUICE_CHECK_LT(i, dim(0));
  return TensorView(Advance(data_, dtype_, i * row_stride_), dtype_, WithoutFirst(shape_));
}

TensorView TensorView::Columns(int64_t begin, int64_t end) const {
  SLUICE_CHECK_EQ(rank(), 2);
  SLUICE_CHECK_LE(0, begin);
  SLUICE_CHECK_LE(begin, end);
  SLUICE_CHECK_LE(end, dim(1));
  return TensorView(Advance(data_, dtype_, begin), dtype_, {dim(0), end - begin}, row_stride_);
}

TensorView TensorView::Reshape(Shape shape) const {
  SLUICE_CHECK(contiguous());
  SLUICE_CHECK_EQ(num_elements(), shape.num_elements());
  return TensorView(data_, dtype_, shape);
}

void TensorView::Zero() const {
  if (!present() || num_elements() == 0) return;
  const size_t row_bytes = static_cast<size_t>(InnerElements(shape_)) * SizeOf(dtype_);
  if (contiguous()) {
    std::memset(data_, 0, static_cast<size_t>(num_elements()) * SizeOf(dtype_));
    return;
  }
  for (int64_t i = 0; i < dim(0); ++i) std::memset(Advance(data_, dtype_, i * row_stride_), 0, row_bytes);
}

Buffer::Buffer(DType dtype, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.num_elements()) * SizeOf(dtype);
  if (bytes >= kHugePagesFrom) {
    const size_t mapped = RoundUp(bytes, kHugePage);
    memory_ = {MapZeroed(mapped), Free{mapped}};
  } else {
    memory_ = {AllocateAligned(bytes), Free{}};
    std::memset(memory_.get(), 0, bytes);
  }
  view_ = TensorView(memory_.get(), dtype, shape);
}

void Buffer::Free::operator()(void* pointer) const {
  if (mapped > 0) {
    munmap(pointer, mapped);
  } else {
    FreeAligned(pointer);
  }
}

// Aligned memory of a fixed size, not cleared.
struct Arena::Block {
  explicit Block(size_t num_bytes)
      : size(num_bytes), memory(static_cast<std::byte*>(AllocateAligned(num_bytes))) {}
  ~Block() { FreeAligned(memory); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  const size_t size;
  std::byte* const memory;
};

TensorView Arena::Allocate(DType dtype, Shape shape) {
  const size_t bytes = RoundUp(static_cast<size_t>(shape.num_elements()) * SizeOf(dtype), kAlignment);
  // Blocks after the current one are free (a Release went back over them): the first large enough
  // serves; when none is, a new block as large as all before it keeps their number small.
  while (position_.block < blocks_.size() && position_.offset + bytes > blocks_[position_.block]->size) {
    ++position_.block;
    position_.offset = 0;
  }
  if (position_.block == blocks_.size()) {
    blocks_.push_back(std::make_shared<Block>(std::max({bytes, capacity_bytes(), kMinBlockBytes})));
  }
  void* data = blocks_[position_.block]->memory + position_.offset;
  position_.offset += bytes;
  size_t used = position_.offset;
  for (size_t i = 0; i < position_.block; ++i) used += blocks_[i]->size;
  peak_bytes_ = std::max(peak_bytes_, used);
  return TensorView(data, dtype, shape);
}

void Arena::Reset() {
  position_ = {};
  if (blocks_.size() <= 1) return;
  blocks_.clear();
  blocks_.push_back(std::make_shared<Block>(peak_bytes_));
}

size_t Arena::capacity_bytes() const {
  size_t total = 0;
  for (const auto& block : blocks_) total += block->size;
  return total;
}

}  // namespace sluice
