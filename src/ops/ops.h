// Ops: every operation of the engine, declared once. A backend implements all of them; a class that
// misses one does not compile. Formulas, shapes and types are in the family headers. Callers go
// through CheckedOps (checked_ops.h), so a backend may rely on every REQUIRES.
#pragma once

#include "ops/attention.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gate.h"
#include "ops/guaranteed_attention.h"
#include "ops/length_scale.h"
#include "ops/loss.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/quantized_fused.h"
#include "ops/quantized_matmul.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "ops/sampling.h"
#include "ops/sparse_attention.h"
#include "ops/swiglu.h"

namespace sluice {

class Ops {
 public:
  virtual ~Ops() = default;

  // The type of every real-valued tensor this backend takes and makes.
  virtual DType dtype() const = 0;
  virtual const char* name() const = 0;

  virtual void Add(const AddArgs& args) = 0;
  virtual void Scale(const ScaleArgs& args) = 0;
  virtual void Silu(const SiluArgs& args) = 0;
  virtual void SiluGrad(const SiluGradArgs& args) = 0;
  virtual void SumSquares(const SumSquaresArgs& args) = 0;

  virtual void Embedding(const EmbeddingArgs& args) = 0;
  virtual void EmbeddingGrad(const EmbeddingGradArgs& args) = 0;
  virtual void RmsNorm(const RmsNormArgs& args) = 0;
  virtual void RmsNormGrad(const RmsNormGradArgs& args) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void RopeGrad(const RopeGradArgs& args) = 0;
  virtual void LengthScale(const LengthScaleArgs& args) = 0;
  virtual void MatMul(const MatMulArgs& args) = 0;
  virtual void MatMulGrad(const MatMulGradArgs& args) = 0;
  virtual void GroupedMatMul(const GroupedMatMulArgs& args) = 0;
  virtual void GroupedMatMulGrad(const GroupedMatMulGradArgs& args) = 0;
  virtual void QuantizedMatMul(const QuantizedMatMulArgs& args) = 0;
  virtual void GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) = 0;
  virtual void QuantizedEmbedding(const QuantizedEmbeddingArgs& args) = 0;
  virtual void RmsNormMatMuls(const RmsNormMatMulsArgs& args) = 0;
  virtual void QuantizedFeedForward(const QuantizedFeedForwardArgs& args) = 0;
  virtual void SwiGlu(const SwiGluArgs& args) = 0;
  virtual void SwiGluGrad(const SwiGluGradArgs& args) = 0;

  virtual void StoreKeyRows(const StoreKeyRowsArgs& args) = 0;
  virtual void LoadKeyRows(const LoadKeyRowsArgs& args) = 0;
  virtual void FullAttention(const FullAttentionArgs& args) = 0;
  virtual void FullAttentionGrad(const FullAttentionGradArgs& args) = 0;
  virtual void SparseAttention(const SparseAttentionArgs& args) = 0;
  virtual void SurrogateAttention(const SurrogateAttentionArgs& args) = 0;
  virtual void SparseAttentionGrad(const SparseAttentionGradArgs& args) = 0;
  virtual void EncodeKeys(const EncodeKeysArgs& args) = 0;
  virtual void GuaranteedAttention(const GuaranteedAttentionArgs& args) = 0;

  virtual void CausalConv(const CausalConvArgs& args) = 0;
  virtual void CausalConvGrad(const CausalConvGradArgs& args) = 0;
  virtual void PackGateKeys(const PackGateKeysArgs& args) = 0;
  virtual void BuildGateTree(const BuildGateTreeArgs& args) = 0;
  virtual void UnpackGateKeys(const UnpackGateKeysArgs& args) = 0;
  virtual void SelectKeys(const SelectKeysArgs& args) = 0;
  virtual void KeepMass(const KeepMassArgs& args) = 0;
  virtual void GateScores(const GateScoresArgs& args) = 0;
  virtual void GateScoresGrad(const GateScoresGradArgs& args) = 0;
  virtual void FarScores(const FarScoresArgs& args) = 0;
  virtual void FarScoresGrad(const FarScoresGradArgs& args) = 0;
  virtual void GateKl(const GateKlArgs& args) = 0;
  virtual void DenseGateKl(const DenseGateKlArgs& args) = 0;

  virtual void Router(const RouterArgs& args) = 0;
  virtual void RouterLoss(const RouterLossArgs& args) = 0;
  virtual void RouterGrad(const RouterGradArgs& args) = 0;
  virtual void RouterHistogram(const RouterHistogramArgs& args) = 0;
  virtual void PlanDispatch(const PlanDispatchArgs& args) = 0;
  virtual void Dispatch(const DispatchArgs& args) = 0;
  virtual void DispatchGrad(const DispatchGradArgs& args) = 0;
  virtual void Combine(const CombineArgs& args) = 0;
  virtual void CombineGrad(const CombineGradArgs& args) = 0;

  virtual void CrossEntropy(const CrossEntropyArgs& args) = 0;
  virtual void CrossEntropyGrad(const CrossEntropyGradArgs& args) = 0;
  virtual void AdamW(const AdamWArgs& args) = 0;
  virtual void Muon(const MuonArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
};

}  // namespace sluice
