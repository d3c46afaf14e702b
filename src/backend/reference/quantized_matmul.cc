// Quantised products; formulas in ops/quantized_matmul.h. The codes are those of the shared float32
// arithmetic: what is rounded where belongs to the contract, what follows is computed in Real.
#include "ops/quantized_matmul.h"

#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "ops/quantized_numerics.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = QuantizedMatrix::kBlock;

// One row of x, rounded to 8 bits, times row n of one expert's matrix.
template <class Real>
Real BlockProduct(const std::vector<int8_t>& codes, const std::vector<float>& scales,
                  const QuantizedMatrix& w, int64_t expert, int64_t n) {
  Real sum{};
  for (int64_t b = 0; b < w.num_blocks(); ++b) {
    int64_t dot = 0, code_sum = 0;
    for (int64_t k = b * kBlock; k < (b + 1) * kBlock; ++k) {
      dot += int64_t{codes[static_cast<size_t>(k)]} * w.Code(expert, n, k);
      code_sum += codes[static_cast<size_t>(k)];
    }
    const Real scale = Constant<Real>(scales[static_cast<size_t>(b)]);
    const auto exact = [](auto value) { return WithMagnitude<Real>(static_cast<double>(value), 0); };
    sum += exact(dot) * (scale * exact(w.Scale(expert, n, b)));
    if (w.format == WeightFormat::kQ4) sum += exact(w.Min(expert, n, b)) * (scale * exact(code_sum));
  }
  return sum;
}

// Rows [begin, end) of x times one expert's matrix.
template <class Real>
void MultiplyRows(const TensorView& x, const QuantizedMatrix& w, int64_t expert, int64_t begin, int64_t end,
                  const TensorView& y) {
  std::vector<int8_t> codes(static_cast<size_t>(w.in));
  std::vector<float> scales(static_cast<size_t>(w.in / kBlock));
  for (int64_t r = begin; r < end; ++r) {
    if (!HasBlocks(w.format)) {
      for (int64_t n = 0; n < w.out; ++n) {
        Real sum{};
        for (int64_t k = 0; k < w.in; ++k) sum += x.row<Real>(r)[k] * Constant<Real>(w.Weight(expert, n, k));
        y.row<Real>(r)[n] = sum;
      }
      continue;
    }
    const std::vector<float> row = reference::ToFloats(x.row<Real>(r), w.in);
    for (int64_t b = 0; b < w.num_blocks(); ++b) {
      scales[static_cast<size_t>(b)] =
          QuantizeActivationBlock(row.data() + b * kBlock, codes.data() + b * kBlock);
    }
    for (int64_t n = 0; n < w.out; ++n) y.row<Real>(r)[n] = BlockProduct<Real>(codes, scales, w, expert, n);
  }
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::QuantizedMatMul(const QuantizedMatMulArgs& args) {
  MultiplyRows<Real>(args.x, args.w, 0, 0, args.x.dim(0), args.y);
}

template <class Real>
void ReferenceOps<Real>::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  for (int64_t e = 0; e < args.w.num_experts; ++e) {
    MultiplyRows<Real>(args.x, args.w, e, offsets[e], offsets[e + 1], args.y);
  }
}

template <class Real>
void ReferenceOps<Real>::QuantizedEmbedding(const QuantizedEmbeddingArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  for (int64_t t = 0; t < args.tokens.dim(0); ++t) {
    for (int64_t k = 0; k < args.table.in; ++k) {
      const bool has_blocks = HasBlocks(args.table.format);
      const double value =
          has_blocks ? double{args.table.Scale(0, tokens[t], k / kBlock)} * args.table.Code(0, tokens[t], k) +
                           args.table.Min(0, tokens[t], k / kBlock)
                     : args.table.Weight(0, tokens[t], k);
      args.out.row<Real>(t)[k] = Constant<Real>(value);
    }
  }
}

template void ReferenceOps<double>::QuantizedMatMul(const QuantizedMatMulArgs&);
template void ReferenceOps<Tracked>::QuantizedMatMul(const QuantizedMatMulArgs&);
template void ReferenceOps<double>::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs&);
template void ReferenceOps<Tracked>::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs&);
template void ReferenceOps<double>::QuantizedEmbedding(const QuantizedEmbeddingArgs&);
template void ReferenceOps<Tracked>::QuantizedEmbedding(const QuantizedEmbeddingArgs&);

}  // namespace sluice
