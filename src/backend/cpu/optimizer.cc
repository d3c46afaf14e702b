// AdamW and Muon. AdamW is one elementwise pass. Muon's Newton-Schulz iteration runs on a copy of each
// matrix with the shorter side first, two of its three products being symmetric. Matrices of a stack run
// in parallel; of a single matrix, each product does.
#include "ops/optimizer.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/products.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/spans.h"
#include "base/threads.h"

// The order of these matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizer.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "backend/cpu/simd_math.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sluice::HWY_NAMESPACE {

// The constants of one AdamW step, bias corrections folded in.
struct AdamWStep {
  explicit AdamWStep(const AdamWArgs& args)
      : beta1(static_cast<float>(args.beta1)),
        beta2(static_cast<float>(args.beta2)),
        rest1(static_cast<float>(1 - args.beta1)),
        rest2(static_cast<float>(1 - args.beta2)),
        scale1(static_cast<float>(1 / (1 - std::pow(args.beta1, static_cast<double>(args.step))))),
        scale2(static_cast<float>(1 / (1 - std::pow(args.beta2, static_cast<double>(args.step))))),
        eps(static_cast<float>(args.eps)),
        lr(static_cast<float>(args.lr)),
        decay(static_cast<float>(args.lr * args.weight_decay)) {}
  float beta1, beta2, rest1, rest2, scale1, scale2, eps, lr, decay;
};

void AdamWSpan(const AdamWArgs& args, int64_t size, float* param, const float* grad, float* m, float* v) {
  const AdamWStep step(args);
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto update = [&](FloatVec g, FloatVec& m1, FloatVec& v1, FloatVec& p) HWY_ATTR {
    m1 = hn::MulAdd(m1, hn::Set(d, step.beta1), hn::Mul(g, hn::Set(d, step.rest1)));
    v1 = hn::MulAdd(v1, hn::Set(d, step.beta2), hn::Mul(hn::Mul(g, g), hn::Set(d, step.rest2)));
    const FloatVec root = hn::Sqrt(hn::Mul(v1, hn::Set(d, step.scale2)));
    const FloatVec change =
        hn::Div(hn::Mul(m1, hn::Set(d, step.scale1)), hn::Add(root, hn::Set(d, step.eps)));
    const FloatVec decayed = hn::NegMulAdd(p, hn::Set(d, step.decay), p);
    p = hn::NegMulAdd(change, hn::Set(d, step.lr), decayed);
  };
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    FloatVec m1 = hn::LoadU(d, m + i), v1 = hn::LoadU(d, v + i), p = hn::LoadU(d, param + i);
    update(hn::LoadU(d, grad + i), m1, v1, p);
    hn::StoreU(m1, d, m + i);
    hn::StoreU(v1, d, v + i);
    hn::StoreU(p, d, param + i);
  }
  if (i < size) {
    const size_t n = static_cast<size_t>(size - i);
    FloatVec m1 = LoadPartial(d, m + i, n), v1 = LoadPartial(d, v + i, n), p = LoadPartial(d, param + i, n);
    update(LoadPartial(d, grad + i, n), m1, v1, p);
    StorePartial(m1, d, m + i, n);
    StorePartial(v1, d, v + i, n);
    StorePartial(p, d, param + i, n);
  }
}

// momentum = mu · momentum + grad; update = grad + mu · momentum.
void MomentumSpan(const float* grad, float mu, int64_t size, float* momentum, float* update) {
  for (int64_t i = 0; i < size; ++i) {
    momentum[i] = mu * momentum[i] + grad[i];
    update[i] = grad[i] + mu * momentum[i];
  }
}

// param -= scale · update + decay · param
void ApplySpan(const float* update, float scale, float decay, int64_t size, float* param) {
  for (int64_t i = 0; i < size; ++i) param[i] -= scale * update[i] + decay * param[i];
}

}  // namespace sluice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {

HWY_EXPORT(AdamWSpan);
HWY_EXPORT(MomentumSpan);
HWY_EXPORT(ApplySpan);

namespace {

constexpr float kMuonA = 3.4445f;
constexpr float kMuonB = -4.7750f;
constexpr float kMuonC = 2.0315f;

struct MuonScratch;

// y [rows, rows] = x xᵀ of x [rows, cols]: the lower half is computed, the upper mirrored.
void Gram(const float* x, int64_t rows, int64_t cols, float* y) {
  Product p;
  p.x = p.w = x;
  p.x_stride = p.w_stride = p.in = cols;
  p.rows = p.out = p.y_stride = rows;
  p.y = y;
  p.lower_only = true;
  RunProducts({p});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r + 1; c < rows; ++c) y[r * rows + c] = y[c * rows + r];
  }
}

// x [rows, cols], rows <= cols, becomes its orthogonal factor, roughly: X ← (a I + b A + c A²) X with
// A = X Xᵀ. gram and poly hold rows² floats each, next rows · cols. Returns the buffer, x or next, that
// holds the result.
float* NewtonSchulz(int64_t rows, int64_t cols, int iterations, float* x, float* next, float* gram,
                    float* poly) {
  for (int i = 0; i < iterations; ++i) {
    Gram(x, rows, cols, gram);
    Gram(gram, rows, rows, poly);
    for (int64_t j = 0; j < rows * rows; ++j) poly[j] = kMuonB * gram[j] + kMuonC * poly[j];
    for (int64_t r = 0; r < rows; ++r) poly[r * rows + r] += kMuonA;
    Product p;
    p.x = poly;
    p.w = x;
    p.y = next;
    p.x_stride = p.rows = p.in = rows;
    p.w_stride = p.y_stride = p.out = cols;
    p.w_transposed = true;
    RunProducts({p});
    std::swap(x, next);
  }
  return x;
}

double Norm(const float* x, int64_t size) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    for (int64_t j = 0; j < 8; ++j) sums[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  for (; i < size; ++i) sums[0] += static_cast<double>(x[i]) * x[i];
  double sum = 0;
  for (const double part : sums) sum += part;
  return std::sqrt(sum);
}

void TransposeInto(const float* x, int64_t rows, int64_t cols, float* out) {
  constexpr int64_t kBlock = 16;
  for (int64_t r = 0; r < rows; r += kBlock) {
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t i = r; i < std::min(rows, r + kBlock); ++i) out[c * rows + i] = x[i * cols + c];
    }
  }
}

// One Muon step of one contiguous matrix [rows, cols].
void MuonMatrix(const MuonArgs& args, int64_t rows, int64_t cols, float* param, const float* grad,
                float* momentum) {
  const int64_t size = rows * cols;
  const int64_t shorter = std::min(rows, cols);
  float* scratch = ThreadScratch<MuonScratch>(2 * size + 2 * shorter * shorter);
  float* update = scratch;
  float* other = scratch + size;
  float* gram = other + size;
  HWY_DYNAMIC_DISPATCH(MomentumSpan)(grad, static_cast<float>(args.mu), size, momentum, update);
  const double norm = Norm(update, size);
  const float inverse = norm > 0 ? static_cast<float>(1.0 / norm) : 0.0f;
  for (int64_t i = 0; i < size; ++i) update[i] *= inverse;
  if (rows > cols) {
    TransposeInto(update, rows, cols, other);
    std::swap(update, other);
  }
  float* result =
      NewtonSchulz(shorter, size / shorter, args.iterations, update, other, gram, gram + shorter * shorter);
  if (rows > cols) {
    float* plain = result == update ? other : update;
    TransposeInto(result, cols, rows, plain);
    result = plain;
  }
  const double scale = args.lr * 0.2 * std::sqrt(static_cast<double>(std::max(rows, cols)));
  HWY_DYNAMIC_DISPATCH(ApplySpan)
  (result, static_cast<float>(scale), static_cast<float>(args.lr * args.weight_decay), size, param);
}

}  // namespace

void CpuOps::AdamW(const AdamWArgs& args) {
  ForEachSpan(std::array{args.param, args.grad, args.m, args.v},
              [&](int64_t, const std::array<float*, 4>& p, int64_t size) {
                HWY_DYNAMIC_DISPATCH(AdamWSpan)(args, size, p[0], p[1], p[2], p[3]);
              });
}

void CpuOps::Muon(const MuonArgs& args) {
  if (args.param.num_elements() == 0) return;
  if (args.param.rank() == 2) {
    MuonMatrix(args, args.param.dim(0), args.param.dim(1), args.param.data<float>(), args.grad.data<float>(),
               args.momentum.data<float>());
    return;
  }
  ParallelFor(args.param.dim(0), [&](int64_t i) {
    MuonMatrix(args, args.param.dim(1), args.param.dim(2), args.param.row<float>(i), args.grad.row<float>(i),
               args.momentum.row<float>(i));
  });
}

}  // namespace sluice
#endif  // HWY_ONCE
