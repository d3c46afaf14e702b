// The gate: its convolution, packed keys and scores; formulas in ops/gate.h. Selection is in
// gate_select.cc, distillation in gate_kl.cc.
#include <algorithm>
#include <limits>
#include <vector>

#include "backend/reference/gate_scores.h"
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"
#include "ops/gate_numerics.h"

namespace sluice {
namespace {

using reference::GateScorer;

// The row of x whose tap j of the convolution reads at row t, or -1 where that is before the query's
// segment. Rows below 0 (history) come as row − kHistory.
constexpr int64_t kNoRow = std::numeric_limits<int64_t>::min();
int64_t TapRow(const TensorView& segment_start, int64_t first_position, int64_t width, int64_t t, int64_t j) {
  const int64_t row = t - (width - 1) + j;
  const int64_t begin = segment_start.present() ? segment_start.data<int32_t>()[t] : 0;
  return first_position + row < begin ? kNoRow : row;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::CausalConv(const CausalConvArgs& args) {
  const int64_t width = args.weight.dim(1);
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    for (int64_t c = 0; c < args.x.dim(1); ++c) {
      Real sum{};
      for (int64_t j = 0; j < width; ++j) {
        const int64_t row = TapRow(args.segment_start, args.first_position, width, t, j);
        if (row == kNoRow || (row < 0 && !args.history.present())) continue;
        const Real x = row < 0 ? args.history.row<Real>(row + width - 1)[c] : args.x.row<Real>(row)[c];
        sum += args.weight.row<Real>(c)[j] * x;
      }
      args.out.row<Real>(t)[c] = sum;
    }
  }
}

template <class Real>
void ReferenceOps<Real>::CausalConvGrad(const CausalConvGradArgs& args) {
  const int64_t width = args.weight.dim(1);
  reference::FillZero<Real>(args.dx);
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    for (int64_t j = 0; j < width; ++j) {
      const int64_t row = TapRow(args.segment_start, 0, width, t, j);
      if (row == kNoRow || row < 0) continue;
      for (int64_t c = 0; c < args.x.dim(1); ++c) {
        const Real dout = args.dout.row<Real>(t)[c];
        args.dx.row<Real>(row)[c] += args.weight.row<Real>(c)[j] * dout;
        args.dweight_acc.row<Real>(c)[j] += args.x.row<Real>(row)[c] * dout;
      }
    }
  }
}

template <class Real>
void ReferenceOps<Real>::PackGateKeys(const PackGateKeysArgs& args) {
  const int64_t size = args.gk.dim(1);
  std::vector<int8_t> codes(size);
  for (int64_t t = 0; t < args.gk.dim(0); ++t) {
    const int64_t s = args.keys.map.Slot(args.first_key + t);
    const std::vector<float> gk = reference::ToFloats(args.gk.row<Real>(t), size);
    static_cast<uint16_t*>(args.keys.scale.raw())[s] = PackOneGateKey(gk.data(), size, codes.data());
    for (int64_t c = 0; c < size; ++c) args.keys.packed.data<int8_t>()[GateCodeOffset(s, c, size)] = codes[c];
  }
}

template <class Real>
void ReferenceOps<Real>::UnpackGateKeys(const UnpackGateKeysArgs& args) {
  const int64_t size = args.gk.dim(1);
  const auto* scales = static_cast<const uint16_t*>(args.keys.scale.raw());
  for (int64_t s = 0; s < args.gk.dim(0); ++s) {
    const int64_t slot = args.keys.map.Slot(s);
    for (int64_t c = 0; c < size; ++c) {
      const float code = args.keys.packed.data<int8_t>()[GateCodeOffset(slot, c, size)];
      args.gk.row<Real>(s)[c] = Real(FloatFromF16(scales[slot]) * code);
    }
  }
}

template <class Real>
void ReferenceOps<Real>::GateScores(const GateScoresArgs& args) {
  const GateScorer<Real> scorer{args.gq, args.gw, args.gk};
  for (int64_t t = 0; t < args.candidates.dim(0); ++t) {
    const int32_t* row = args.candidates.row<int32_t>(t);
    Real threshold = WithMagnitude<Real>(std::numeric_limits<double>::infinity(), 0);
    for (int64_t j = 0; j < args.candidates.dim(1); ++j) {
      Real& score = args.scores.row<Real>(t)[j];
      score = row[j] >= 0 ? scorer.Score(t, row[j]) : Real{};
      if (j >= args.num_selected) continue;
      const Real bound =
          row[j] >= 0 ? score : WithMagnitude<Real>(-std::numeric_limits<double>::infinity(), 0);
      if (bound < threshold) threshold = bound;
    }
    args.threshold.data<Real>()[t] = threshold;
  }
}

template <class Real>
void ReferenceOps<Real>::GateScoresGrad(const GateScoresGradArgs& args) {
  const GateScorer<Real> scorer{args.gq, args.gw, args.gk};
  for (const TensorView& view : {args.dgq, args.dgw, args.dgk}) reference::FillZero<Real>(view);
  for (int64_t t = 0; t < args.candidates.dim(0); ++t) {
    const int32_t* row = args.candidates.row<int32_t>(t);
    for (int64_t j = 0; j < args.candidates.dim(1); ++j) {
      if (row[j] >= 0) scorer.AddGrad(t, row[j], args.dscores.row<Real>(t)[j], args.dgq, args.dgw, args.dgk);
    }
  }
}

template <class Real>
void ReferenceOps<Real>::FarScores(const FarScoresArgs& args) {
  const GateScorer<Real> scorer{args.gq, args.gw, args.gk};
  reference::FillZero<Real>(args.scores);
  for (int64_t t = 0; t < args.gq.dim(0); ++t) {
    for (int64_t i = 0; i < args.span.NumFar(t); ++i) {
      args.scores.row<Real>(t)[i] = scorer.Score(t, args.span.SinksEnd(t) + i);
    }
  }
}

template <class Real>
void ReferenceOps<Real>::FarScoresGrad(const FarScoresGradArgs& args) {
  const GateScorer<Real> scorer{args.gq, args.gw, args.gk};
  for (const TensorView& view : {args.dgq, args.dgw, args.dgk}) reference::FillZero<Real>(view);
  for (int64_t t = 0; t < args.gq.dim(0); ++t) {
    for (int64_t i = 0; i < args.span.NumFar(t); ++i) {
      scorer.AddGrad(t, args.span.SinksEnd(t) + i, args.dscores.row<Real>(t)[i], args.dgq, args.dgw,
                     args.dgk);
    }
  }
}

template void ReferenceOps<double>::CausalConv(const CausalConvArgs&);
template void ReferenceOps<Tracked>::CausalConv(const CausalConvArgs&);
template void ReferenceOps<double>::CausalConvGrad(const CausalConvGradArgs&);
template void ReferenceOps<Tracked>::CausalConvGrad(const CausalConvGradArgs&);
template void ReferenceOps<double>::PackGateKeys(const PackGateKeysArgs&);
template void ReferenceOps<Tracked>::PackGateKeys(const PackGateKeysArgs&);
template void ReferenceOps<double>::UnpackGateKeys(const UnpackGateKeysArgs&);
template void ReferenceOps<Tracked>::UnpackGateKeys(const UnpackGateKeysArgs&);
template void ReferenceOps<double>::FarScores(const FarScoresArgs&);
template void ReferenceOps<Tracked>::FarScores(const FarScoresArgs&);
template void ReferenceOps<double>::FarScoresGrad(const FarScoresGradArgs&);
template void ReferenceOps<Tracked>::FarScoresGrad(const FarScoresGradArgs&);
template void ReferenceOps<double>::GateScores(const GateScoresArgs&);
template void ReferenceOps<Tracked>::GateScores(const GateScoresArgs&);
template void ReferenceOps<double>::GateScoresGrad(const GateScoresGradArgs&);
template void ReferenceOps<Tracked>::GateScoresGrad(const GateScoresGradArgs&);

}  // namespace sluice
