// Vector functions shared by the CPU kernels: exp, sigmoid, log, and loads and stores of the last,
// shorter vector of a row. Included once per Highway target, in this order, guarded from clang-format:
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "backend/cpu/x.cc"
//   #include "hwy/foreach_target.h"
//   #include "hwy/highway.h"
//   #include "backend/cpu/simd_math.h"
// exp(x) = 2^n (1 + r + r² p(r)), n = round(x / ln 2), |r| <= ln 2 / 2, p of degree 4 through the
// Chebyshev nodes: 1.0e-8 off before rounding, about 1 ulp after it.
#if defined(SLUICE_BACKEND_CPU_SIMD_MATH_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_BACKEND_CPU_SIMD_MATH_H_
#undef SLUICE_BACKEND_CPU_SIMD_MATH_H_
#else
#define SLUICE_BACKEND_CPU_SIMD_MATH_H_
#endif

#include <cstddef>
#include <cstring>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// As many lanes as the target has.
using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// The first `count` < Lanes(d) elements at p, then zeros; reads nothing past them.
HWY_INLINE FloatVec LoadPartial(FloatTag d, const float* HWY_RESTRICT p, size_t count) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  for (size_t i = 0; i < count; ++i) lanes[i] = p[i];
  return hn::Load(d, lanes);
#else
  return hn::MaskedLoad(hn::FirstN(d, count), d, p);
#endif
}

// Writes the first `count` < Lanes(d) lanes of v to p.
HWY_INLINE void StorePartial(FloatVec v, FloatTag d, float* HWY_RESTRICT p, size_t count) {
  hn::BlendedStore(v, hn::FirstN(d, count), d, p);
}

// e^x for x <= 88.37: no upper check. 0 below -87.33 (where the result would be denormal) and at
// -infinity; NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpNonPositive(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Adding 1.5 · 2^23 leaves the nearest integer in the low mantissa bits.
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896341f), hn::Set(d, 12582912.0f));
  const V n = hn::Sub(shifted, hn::Set(d, 12582912.0f));
  V r = hn::MulAdd(n, hn::Set(d, -0.693145751953125f), x);
  r = hn::MulAdd(n, hn::Set(d, -1.428606765330187045e-6f), r);
  V p = hn::MulAdd(hn::Set(d, 0.0013926250394433737f), r, hn::Set(d, 0.00836323294788599f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.04166655242443085f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.16666576266288757f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::BitCast(di, shifted), hn::Set(di, 127))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.33f)), hn::Mul(p, power));
}

// e^x for any x: as above, and +infinity above 88.37.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exponential(D d, V x) {
  const V infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.37f)), infinity, ExpNonPositive(d, x));
}

// 1 / (1 + e^-x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exponential(d, hn::Neg(x))));
}

// Natural logarithm of x in (0, FLT_MAX]; 4 ulp.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Logarithm(D d, V x) {
  return hn::Log(d, x);
}

// The sum of the lanes as a scalar, in an order fixed by the number of lanes.
HWY_INLINE float HorizontalSum(FloatTag d, FloatVec v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}
HWY_INLINE float HorizontalMax(FloatTag d, FloatVec v) {
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#endif  // toggle
