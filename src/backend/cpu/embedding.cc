// Token embedding. The gradient adds rows in token order, in parallel over columns, since two tokens
// may share a row of the table.
#include "ops/embedding.h"

#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "base/threads.h"

namespace sluice {
namespace {
constexpr int64_t kTokensPerTask = 256;
constexpr int64_t kColumnsPerTask = 64;
}  // namespace

void CpuOps::Embedding(const EmbeddingArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  const int64_t hidden = args.out.dim(1);
  ParallelForRange(args.tokens.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      std::copy_n(args.table.row<float>(tokens[t]), hidden, args.out.row<float>(t));
    }
  });
}

void CpuOps::EmbeddingGrad(const EmbeddingGradArgs& args) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  ParallelForRange(args.dout.dim(1), kColumnsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < args.tokens.dim(0); ++t) {
      const float* dout = args.dout.row<float>(t);
      float* row = args.dtable_acc.row<float>(tokens[t]);
      for (int64_t j = begin; j < end; ++j) row[j] += dout[j];
    }
  });
}

}  // namespace sluice
