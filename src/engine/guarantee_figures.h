// What a guarantee (ops/guaranteed_attention.h) proved and cost, over all queries and layers of what it
// watched: prefill and decoding alike.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/pass.h"

namespace sluice {

class GuaranteeFigures : public PassObserver {
 public:
  void OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) override;

  double epsilon() const { return epsilon_; }
  // Of the softmax mass that any head of a query left unread: the largest of all, and the mean over queries
  // and layers.
  double largest_bound() const { return largest_bound_; }
  double mean_bound() const { return queries_ > 0 ? sum_bounds_ / static_cast<double>(queries_) : 0; }
  // Keys read, of those that full attention would have read.
  double share_read() const;
  std::vector<double> share_read_by_layer() const;

  // "guarantee 0.01: ...", a line.
  std::string Line() const;
  // {"epsilon", "largest_bound", "mean_bound", "share_of_keys_read", "share_by_layer": [..]}
  nlohmann::ordered_json Json() const;

 private:
  double epsilon_ = 0;
  double largest_bound_ = 0;
  double sum_bounds_ = 0;
  int64_t queries_ = 0;
  struct Keys {
    double read = 0;
    double all = 0;
    double share() const { return all > 0 ? read / all : 1; }
  };
  std::vector<Keys> layers_;
};

}  // namespace sluice
