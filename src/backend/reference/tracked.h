// Arithmetic on Tracked: running first-order error analysis (Wilkinson; Higham, "Accuracy and
// stability of numerical algorithms", §3.3). Beside its float64 value a result carries a magnitude m
// such that the same formula in a format of unit roundoff eps errs by at most c · eps · m, with c a
// small constant that covers other orders of summation and functions good to a few units:
//   a ± b: m_a + m_b + |r|      a · b: |b| m_a + |a| m_b + |r|      f(x): |f'(x)| m_x + |f(x)|
// An input's magnitude is |value|: it may have been rounded. Comparisons look at the value alone; a
// step that rounding may turn (Step, ReLU near 0) carries its whole jump as the error.
// The same names work on double, so that an op's code is written once for both.
#pragma once

#include <cmath>
#include <compare>
#include <concepts>
#include <limits>

#include "tensor/dtype.h"

namespace sluice {

// Unit roundoff of the format that magnitudes are compared in.
inline constexpr double kTrackedEps = std::numeric_limits<float>::epsilon();
// |x| < kTrackedNear · magnitude: rounding in float32 may turn x's sign.
inline constexpr double kTrackedNear = 64 * kTrackedEps;

// A constant or an input of the formula.
template <class Real>
Real Constant(double value);
template <>
inline double Constant<double>(double value) {
  return value;
}
template <>
inline Tracked Constant<Tracked>(double value) {
  return {value, std::abs(value)};
}

inline double ValueOf(double x) {
  return x;
}
inline double ValueOf(const Tracked& x) {
  return x.value;
}

inline double MagnitudeOf(double) {
  return 0;
}
inline double MagnitudeOf(const Tracked& x) {
  return x.magnitude;
}

// `value` with an error of up to `magnitude`, from a computation that is not tracked itself.
template <class Real>
Real WithMagnitude(double value, double magnitude) {
  if constexpr (std::same_as<Real, Tracked>) {
    return {value, magnitude};
  } else {
    return value;
  }
}

inline Tracked operator-(const Tracked& a) {
  return {-a.value, a.magnitude};
}
inline Tracked operator+(const Tracked& a, const Tracked& b) {
  const double r = a.value + b.value;
  return {r, a.magnitude + b.magnitude + std::abs(r)};
}
inline Tracked operator-(const Tracked& a, const Tracked& b) {
  return a + -b;
}
inline Tracked operator*(const Tracked& a, const Tracked& b) {
  const double r = a.value * b.value;
  return {r, std::abs(b.value) * a.magnitude + std::abs(a.value) * b.magnitude + std::abs(r)};
}
inline Tracked operator/(const Tracked& a, const Tracked& b) {
  const double r = a.value / b.value;
  return {r, (a.magnitude + std::abs(r) * b.magnitude) / std::abs(b.value) + std::abs(r)};
}

// With a plain double: a constant that float may have to round.
inline Tracked operator+(const Tracked& a, double b) {
  return a + Constant<Tracked>(b);
}
inline Tracked operator+(double a, const Tracked& b) {
  return Constant<Tracked>(a) + b;
}
inline Tracked operator-(const Tracked& a, double b) {
  return a - Constant<Tracked>(b);
}
inline Tracked operator-(double a, const Tracked& b) {
  return Constant<Tracked>(a) - b;
}
inline Tracked operator*(const Tracked& a, double b) {
  return a * Constant<Tracked>(b);
}
inline Tracked operator*(double a, const Tracked& b) {
  return Constant<Tracked>(a) * b;
}
inline Tracked operator/(const Tracked& a, double b) {
  return a / Constant<Tracked>(b);
}
inline Tracked operator/(double a, const Tracked& b) {
  return Constant<Tracked>(a) / b;
}

template <class B>
Tracked& operator+=(Tracked& a, const B& b) {
  return a = a + b;
}
template <class B>
Tracked& operator-=(Tracked& a, const B& b) {
  return a = a - b;
}
template <class B>
Tracked& operator*=(Tracked& a, const B& b) {
  return a = a * b;
}

inline bool operator==(const Tracked& a, const Tracked& b) {
  return a.value == b.value;
}
inline std::partial_ordering operator<=>(const Tracked& a, const Tracked& b) {
  return a.value <=> b.value;
}

inline double Exp(double x) {
  return std::exp(x);
}
inline Tracked Exp(const Tracked& x) {
  const double r = std::exp(x.value);
  return {r, r * x.magnitude + r};
}

inline double Log(double x) {
  return std::log(x);
}
inline Tracked Log(const Tracked& x) {
  const double r = std::log(x.value);
  return {r, x.magnitude / std::abs(x.value) + std::abs(r)};
}

// At 0, where the derivative is infinite, an error of m moves the root by up to sqrt(m).
inline double Sqrt(double x) {
  return std::sqrt(x);
}
inline Tracked Sqrt(const Tracked& x) {
  const double r = std::sqrt(x.value);
  return {r, (r > 0 ? x.magnitude / (2 * r) : std::sqrt(x.magnitude)) + r};
}

inline double Sigmoid(double x) {
  if (x >= 0) return 1 / (1 + std::exp(-x));
  const double e = std::exp(x);
  return e / (1 + e);
}
inline Tracked Sigmoid(const Tracked& x) {
  const double r = Sigmoid(x.value);
  return {r, r * Sigmoid(-x.value) * x.magnitude + r};
}

// 1 − sigmoid(x), without cancellation.
template <class Real>
Real OneMinusSigmoid(const Real& x) {
  return Sigmoid(-x);
}

// log(1 + e^x)
inline double Softplus(double x) {
  return std::fmax(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}
inline Tracked Softplus(const Tracked& x) {
  const double r = Softplus(x.value);
  return {r, Sigmoid(x.value) * x.magnitude + r};
}

// max(0, x)
inline double Relu(double x) {
  return x > 0 ? x : 0;
}
inline Tracked Relu(const Tracked& x) {
  const bool near = std::abs(x.value) < kTrackedNear * x.magnitude;
  return {Relu(x.value), x.value > 0 || near ? x.magnitude : 0};
}

// 1 where x > 0, else 0: the derivative of Relu.
inline double Step(double x) {
  return x > 0 ? 1 : 0;
}
inline Tracked Step(const Tracked& x) {
  const bool near = std::abs(x.value) < kTrackedNear * x.magnitude;
  return {Step(x.value), near ? 1 / kTrackedEps : 0};
}

}  // namespace sluice
