// Codes of keys by residual quantisation; formulas in ops/key_codes.h. Everything is decided in float64.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/decoded_rows.h"
#include "backend/reference/loops.h"
#include "backend/reference/reference_ops.h"

namespace sluice {
namespace {

// One head's codebook.
template <class Real>
struct HeadCodebook {
  const KeyCodebook& book;
  int64_t head;
  int64_t size;

  double Mean(int64_t c) const { return ValueOf(book.mean.row<Real>(head)[c]); }
  double Weight(int64_t c) const { return ValueOf(book.weight.row<Real>(head)[c]); }
  double Codeword(int64_t i, int64_t c) const {
    return ValueOf(book.codewords.row<Real>(head)[i * size + c]);
  }
};

// Takes the nearest codeword of a stage from x; returns which it is.
template <class Real>
int64_t TakeNearest(const HeadCodebook<Real>& book, int64_t stage, std::vector<double>& x) {
  int64_t nearest = 0;
  double highest = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < KeyCodebook::kCodewords; ++i) {
    double score = 0;
    for (int64_t c = 0; c < book.size; ++c) {
      const double y = book.Weight(c) * book.Codeword(stage * KeyCodebook::kCodewords + i, c);
      score += y * (book.Weight(c) * x[static_cast<size_t>(c)] - y / 2);
    }
    if (score > highest) {
      highest = score;
      nearest = i;
    }
  }
  for (int64_t c = 0; c < book.size; ++c)
    x[static_cast<size_t>(c)] -= book.Codeword(stage * KeyCodebook::kCodewords + nearest, c);
  return nearest;
}

}  // namespace

template <class Real>
void ReferenceOps<Real>::EncodeKeys(const EncodeKeysArgs& args) {
  const int64_t kv_heads = args.k.dim(1), d = args.k.dim(2), stages = args.codebook.num_stages();
  const reference::DecodedRows<Real> keys(args.k, args.first_key, args.end_key);
  std::vector<double> x(static_cast<size_t>(d));
  for (int64_t s = args.first_key; s < args.end_key; ++s) {
    for (int64_t g = 0; g < kv_heads; ++g) {
      const HeadCodebook<Real> book{args.codebook, g, d};
      for (int64_t c = 0; c < d; ++c)
        x[static_cast<size_t>(c)] = ValueOf(keys.row(s)[g * d + c]) - book.Mean(c);
      for (int64_t j = 0; j < stages; ++j)
        args.codes.Codes(s)[g * stages + j] = static_cast<uint8_t>(TakeNearest(book, j, x));
      double sum = 0;
      for (int64_t c = 0; c < d; ++c) sum += std::pow(book.Weight(c) * x[static_cast<size_t>(c)], 2);
      args.codes.Distance(s)[g] = KeyCodeNumerics::CodeOf(std::sqrt(sum));
    }
  }
}

template void ReferenceOps<double>::EncodeKeys(const EncodeKeysArgs&);
template void ReferenceOps<Tracked>::EncodeKeys(const EncodeKeysArgs&);

}  // namespace sluice
