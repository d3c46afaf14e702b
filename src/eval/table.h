// Tables for people: columns of text, the first one to the left, the others to the right.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  // REQUIRES: as many cells as the header has.
  void AddRow(std::vector<std::string> cells);
  std::string ToString() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// "131,072".
std::string FormatCount(int64_t count);
// "1.23 GFLOP", "45.6 TFLOP".
std::string FormatFlops(double flops);
// "97.5%".
std::string FormatShare(double share);

}  // namespace sluice
