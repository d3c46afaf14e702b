// A case made concrete for one backend and one memory layout: guarded memory, the views, one run, and
// what came out. Bytes around and between the rows of every tensor are a pattern that no op may touch.
#pragma once

#include <string>
#include <vector>

#include "backend/testing/op_case.h"

namespace sluice {

// Where the elements of a tensor lie in memory.
struct Layout {
  int64_t offset = 0;   // Elements between the aligned start and the first element.
  int64_t row_gap = 0;  // Elements between rows (tensors of two axes and more).
};

// One tensor after a run.
struct Result {
  std::string name;
  int64_t num_rows = 0;
  int64_t row_size = 0;
  bool exact = false;             // An integer: compared for equality.
  std::vector<double> value;      // Row-major.
  std::vector<double> magnitude;  // Zeros where the backend tracks none.
};
using Results = std::vector<Result>;

class OpRun {
 public:
  // `real`: what kF32 tensors of the case become. The case must outlive this.
  OpRun(const OpCase& op_case, DType real, Layout layout = {});

  // All tensors back to their first values.
  void Reset();
  double Get(const std::string& name, int64_t element) const;
  void Set(const std::string& name, int64_t element, double value);

  Tensors tensors() const;
  // Calls the case's forward op, then its gradient op (where there are any).
  void Forward(Ops& ops) const;
  void Gradient(Ops& ops) const;

  // Outputs and in-out tensors, in the order declared.
  Results Outputs() const;
  // "" if inputs, guard bytes and gaps are as Reset left them, else what changed.
  std::string CheckUntouched() const;

 private:
  struct Memory {
    const TensorSpec* spec = nullptr;
    DType dtype = DType::kF32;
    int64_t first = 0;  // Element index of the view's first element in `bytes`.
    int64_t row_size = 0;
    int64_t row_stride = 0;
    std::vector<std::byte> bytes;
    std::vector<std::byte> initial;
    size_t aligned_offset = 0;

    std::byte* Element(int64_t i);
    const std::byte* Element(int64_t i) const { return const_cast<Memory*>(this)->Element(i); }
    TensorView View() const;
  };
  const Memory& Find(const std::string& name) const;

  const OpCase& case_;
  std::vector<Memory> memory_;
};

}  // namespace sluice
