// The CPU backend: float32, Highway kernels with run-time dispatch. One file per op family, named as in
// ops/. Work is split into tasks by shape alone, so results are the same bits at any thread count.
#pragma once

#include "ops/ops.h"

namespace sluice {

class CpuOps final : public Ops {
 public:
  DType dtype() const override { return DType::kF32; }
  const char* name() const override { return "cpu"; }

  void Add(const AddArgs& args) override;
  void Scale(const ScaleArgs& args) override;
  void Silu(const SiluArgs& args) override;
  void SiluGrad(const SiluGradArgs& args) override;
  void SumSquares(const SumSquaresArgs& args) override;
  void Embedding(const EmbeddingArgs& args) override;
  void EmbeddingGrad(const EmbeddingGradArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void RmsNormGrad(const RmsNormGradArgs& args) override;
  void Rope(const RopeArgs& args) override;
  void RopeGrad(const RopeGradArgs& args) override;
  void LengthScale(const LengthScaleArgs& args) override;
  void MatMul(const MatMulArgs& args) override;
  void MatMulGrad(const MatMulGradArgs& args) override;
  void GroupedMatMul(const GroupedMatMulArgs& args) override;
  void GroupedMatMulGrad(const GroupedMatMulGradArgs& args) override;
  void QuantizedMatMul(const QuantizedMatMulArgs& args) override;
  void GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) override;
  void QuantizedEmbedding(const QuantizedEmbeddingArgs& args) override;
  void RmsNormMatMuls(const RmsNormMatMulsArgs& args) override;
  void QuantizedFeedForward(const QuantizedFeedForwardArgs& args) override;
  void SwiGlu(const SwiGluArgs& args) override;
  void SwiGluGrad(const SwiGluGradArgs& args) override;
  void StoreKeyRows(const StoreKeyRowsArgs& args) override;
  void LoadKeyRows(const LoadKeyRowsArgs& args) override;
  void FullAttention(const FullAttentionArgs& args) override;
  void FullAttentionGrad(const FullAttentionGradArgs& args) override;
  void SparseAttention(const SparseAttentionArgs& args) override;
  void SurrogateAttention(const SurrogateAttentionArgs& args) override;
  void SparseAttentionGrad(const SparseAttentionGradArgs& args) override;
  void EncodeKeys(const EncodeKeysArgs& args) override;
  void GuaranteedAttention(const GuaranteedAttentionArgs& args) override;
  void CausalConv(const CausalConvArgs& args) override;
  void CausalConvGrad(const CausalConvGradArgs& args) override;
  void PackGateKeys(const PackGateKeysArgs& args) override;
  void BuildGateTree(const BuildGateTreeArgs& args) override;
  void UnpackGateKeys(const UnpackGateKeysArgs& args) override;
  void SelectKeys(const SelectKeysArgs& args) override;
  void KeepMass(const KeepMassArgs& args) override;
  void GateScores(const GateScoresArgs& args) override;
  void GateScoresGrad(const GateScoresGradArgs& args) override;
  void FarScores(const FarScoresArgs& args) override;
  void FarScoresGrad(const FarScoresGradArgs& args) override;
  void GateKl(const GateKlArgs& args) override;
  void DenseGateKl(const DenseGateKlArgs& args) override;
  void Router(const RouterArgs& args) override;
  void RouterLoss(const RouterLossArgs& args) override;
  void RouterGrad(const RouterGradArgs& args) override;
  void RouterHistogram(const RouterHistogramArgs& args) override;
  void PlanDispatch(const PlanDispatchArgs& args) override;
  void Dispatch(const DispatchArgs& args) override;
  void DispatchGrad(const DispatchGradArgs& args) override;
  void Combine(const CombineArgs& args) override;
  void CombineGrad(const CombineGradArgs& args) override;
  void CrossEntropy(const CrossEntropyArgs& args) override;
  void CrossEntropyGrad(const CrossEntropyGradArgs& args) override;
  void AdamW(const AdamWArgs& args) override;
  void Muon(const MuonArgs& args) override;
  void Sample(const SampleArgs& args) override;
};

}  // namespace sluice
