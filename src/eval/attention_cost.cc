#include "eval/attention_cost.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/random.h"
#include "eval/median.h"
#include "model/far_bias.h"
#include "model/flops.h"
#include "model/key_codebooks.h"
#include "model/weights.h"
#include "ops/gate_tree_buffers.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {

namespace {

constexpr int64_t kMaxLength = 1 << 24;
constexpr int64_t kChunk = 1024;  // Tokens of a prefill pass, as SessionOptions has them.
// A single query is asked for so many times, with other rows, unless that takes longer than kQuerySeconds.
constexpr int kQueryRepeats = 15;
constexpr double kQuerySeconds = 1.0;
constexpr int kTileRepeats = 3;
constexpr double kBenchEpsilon = 0.01;  // Of the method "guarantee".
constexpr int64_t kCodeStages = 4;      // Of its key codes.

// Random values; large tensors repeat the first rows, as attention's speed does not depend on them.
Buffer RandomRows(const Shape& shape, uint64_t seed, int64_t distinct_rows) {
  Buffer buffer(DType::kF32, shape);
  Random random(seed);
  float* values = buffer.view().data<float>();
  const int64_t size = shape.num_elements();
  const int64_t distinct = std::min(size, size / shape[0] * distinct_rows);
  for (int64_t i = 0; i < distinct; ++i) values[i] = static_cast<float>(random.Normal());
  for (int64_t i = distinct; i < size; i += distinct) {
    std::memcpy(values + i, values, static_cast<size_t>(std::min(distinct, size - i)) * sizeof(float));
  }
  return buffer;
}

// One layer's and one gate's inputs for all positions below `length`.
class Problem {
 public:
  Problem(const ModelConfig& config, int64_t top_k, int64_t length, uint64_t seed)
      : config_(config),
        q_(RandomRows({kChunk, config.num_heads, config.head_dim}, seed, kChunk)),
        k_(DType::kBF16, {length, config.num_kv_heads, config.head_dim}),
        v_(DType::kBF16, {length, config.num_kv_heads, config.head_dim}),
        k_rot_(RandomRows({kChunk + config.window, config.num_kv_heads, config.head_dim}, seed + 1, kChunk)),
        sink_logit_(RandomRows({config.num_heads}, seed + 3, config.num_heads)),
        out_(DType::kF32, {kChunk, config.num_heads, config.head_dim}),
        gq_(RandomRows({kChunk, config.gate.num_heads, config.gate.head_dim}, seed + 4, kChunk)),
        gw_(RandomRows({kChunk, config.gate.num_heads}, seed + 5, kChunk)),
        packed_(DType::kI8, {(length + 15) / 16, config.gate.head_dim / 2, GateKeyView::kGroup, 2}),
        scale_(DType::kF16, {(length + 15) / 16 * 16}),
        candidates_(DType::kI32, {kChunk, top_k}),
        scores_(DType::kF32, {kChunk, top_k}),
        bias_weight_(RandomRows({config.num_heads}, seed + 6, config.num_heads)) {
    const Buffer k = RandomRows({kChunk, config.num_kv_heads, config.head_dim}, seed + 1, kChunk);
    const Buffer v = RandomRows({kChunk, config.num_kv_heads, config.head_dim}, seed + 2, kChunk);
    for (int64_t begin = 0; begin < length; begin += kChunk) {
      const int64_t count = std::min(kChunk, length - begin);
      ops_->StoreKeyRows({k.view().Rows(0, count), begin, Rows(k_, 0)});
      ops_->StoreKeyRows({v.view().Rows(0, count), begin, Rows(v_, 0)});
    }
    // All keys of the gate are different: a scan's speed depends on how often it finds a better one.
    for (int64_t begin = 0; begin < length; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, length);
      const Buffer gk = RandomRows({end - begin, config.gate.head_dim},
                                   seed + 7 + static_cast<uint64_t>(begin), end - begin);
      ops_->PackGateKeys({gk, begin, {packed_, scale_, length}});
    }
  }

  Ops& ops() const { return *ops_; }
  const ModelConfig& config() const { return config_; }
  int64_t top_k() const { return candidates_.view().dim(1); }
  int64_t length() const { return k_.view().dim(0); }
  // Of the queries at positions [begin, begin + count), count <= kChunk.
  TensorView Candidates(int64_t count) const { return candidates_.view().Rows(0, count); }
  TensorView Out(int64_t count) const { return out_.view().Rows(0, count); }

  AttentionSpan Span(int64_t begin) const {
    AttentionSpan span;
    span.query_offset = begin;
    span.window = config_.window;
    span.num_sinks = config_.num_sinks;
    return span;
  }
  AttentionInputs Inputs(int64_t begin, int64_t count) const {
    AttentionInputs in;
    in.q = in.q_rot = q_.view().Rows(0, count);
    in.k = Rows(k_, begin + count);
    in.v = Rows(v_, begin + count);
    in.k_rot_begin = std::max<int64_t>(begin - config_.window + 1, 0);
    in.k_rot = k_rot_.view().Rows(0, begin + count - in.k_rot_begin);
    in.sink_logit = sink_logit_;
    in.span = Span(begin);
    return in;
  }
  // `row`: which of the random queries comes first.
  SelectKeysArgs Selection(int64_t begin, int64_t count, int64_t row) const {
    SelectKeysArgs args;
    args.gq = gq_.view().Rows(row, row + count);
    args.gw = gw_.view().Rows(row, row + count);
    args.keys = {packed_, scale_, begin + count};
    args.span = Span(begin);
    args.num_selected = top_k();
    args.candidates = Candidates(count);
    if (config_.gate.bias) args.scores = scores_.view().Rows(0, count);
    return args;
  }
  // After a selection.
  SparseAttentionArgs Sparse(int64_t begin, int64_t count) const {
    SparseAttentionArgs args;
    args.in = Inputs(begin, count);
    if (config_.gate.bias) args.in.bias = {scores_.view().Rows(0, count), bias_weight_};
    args.candidates = Candidates(count);
    args.num_selected = top_k();
    args.out = Out(count);
    return args;
  }
  // As the model does it (model/far_bias.h).
  void Full(int64_t begin, int64_t count) {
    if (!config_.gate.bias) return ops_->FullAttention({Inputs(begin, count), Out(count), {}});
    arena_.Reset();
    BiasedFullAttention(*ops_, arena_, Gate(begin, count), Inputs(begin, count), bias_weight_, Out(count));
  }
  // After a selection, whose keys are read first. Writes args.keys_read and args.bound.
  void Guaranteed(int64_t begin, int64_t count, GuaranteedAttentionArgs args) {
    args.in = Inputs(begin, count);
    args.candidates = Candidates(count);
    args.out = Out(count);
    if (!config_.gate.bias) return ops_->GuaranteedAttention(args);
    arena_.Reset();
    BiasedGuaranteedAttention(*ops_, arena_, Gate(begin, count), bias_weight_, args);
  }
  // All keys of the layer.
  KeyRows keys() const { return Rows(k_, length()); }

 private:
  static KeyRows Rows(const Buffer& memory, int64_t num_rows) {
    KeyRows rows(memory, {});
    rows.num_rows = num_rows;
    return rows;
  }
  GateSaved Gate(int64_t begin, int64_t count) const {
    const SelectKeysArgs selection = Selection(begin, count, 0);
    GateSaved gate;
    gate.gq = selection.gq;
    gate.gw = selection.gw;
    gate.keys = selection.keys;
    return gate;
  }

  ModelConfig config_;
  std::unique_ptr<Ops> ops_ = MakeOps("cpu");
  Buffer q_, k_, v_, k_rot_, sink_logit_, out_, gq_, gw_, packed_, scale_, candidates_, scores_, bias_weight_;
  Arena arena_;
};

// A tree over all keys of a gate.
class Tree {
 public:
  explicit Tree(const Problem& problem)
      : buffer_({KvCacheShape::kTreeGroup, problem.length()}, problem.config().gate.head_dim) {
    const GateKeyView keys = problem.Selection(problem.length() - 1, 1, 0).keys;
    const auto start = std::chrono::steady_clock::now();
    problem.ops().BuildGateTree({keys, 0, problem.length(), buffer_.View(0)});
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    seconds_per_key_ = elapsed.count() / static_cast<double>(problem.length());
  }

  double seconds_per_key() const { return seconds_per_key_; }
  // Of queries that end before key `end`, also where the model would scan.
  GateTreeSearch Search(const Problem& problem, int64_t end) const {
    return {buffer_.View(end), TreeOptions().BeamFor(problem.top_k(), problem.config().num_sinks), 0};
  }

 private:
  GateTreeBuffer buffer_;
  double seconds_per_key_ = 0;
};

// One way of attending. `select` runs once per gate, `attend` once per layer, for the queries at positions
// [begin, begin + count); the first of them is number `row` of the random ones. `flops` are those of one
// query in all layers and gates.
struct Method {
  std::function<void(int64_t begin, int64_t count, int64_t row)> select;
  std::function<void(int64_t begin, int64_t count)> attend;
  std::function<CountedFlops(int64_t position)> flops;
  double index_seconds = 0;  // Per token of a prefill and gate, of keeping an index.
};

// Counted over all layers and gates.
CountedFlops FlopsOf(const ModelConfig& config, double attended_keys, double scanned_keys) {
  return {attended_keys * AttentionFlopsPerKey(config) * static_cast<double>(config.num_layers),
          scanned_keys * GateScanFlopsPerKey(config) * static_cast<double>(config.num_gates())};
}

Method DenseMethod(Problem& problem) {
  Method method;
  method.select = [](int64_t, int64_t, int64_t) {};
  method.attend = [&problem](int64_t begin, int64_t count) { problem.Full(begin, count); };
  method.flops = [&problem](int64_t position) {
    return FlopsOf(problem.config(), static_cast<double>(position + 1), 0);
  };
  return method;
}

Method FlatMethod(Problem& problem) {
  Method method;
  method.select = [&problem](int64_t begin, int64_t count, int64_t row) {
    problem.ops().SelectKeys(problem.Selection(begin, count, row));
  };
  method.attend = [&problem](int64_t begin, int64_t count) {
    problem.ops().SparseAttention(problem.Sparse(begin, count));
  };
  method.flops = [&problem](int64_t position) {
    const int64_t far = problem.Span(position).NumFar(0);
    const int64_t attended = position + 1 - far + std::min(far, problem.top_k());
    return FlopsOf(problem.config(), static_cast<double>(attended), static_cast<double>(far));
  };
  return method;
}

Method TreeMethod(Problem& problem) {
  const auto tree = std::make_shared<Tree>(problem);
  Method method = FlatMethod(problem);
  method.index_seconds = tree->seconds_per_key();
  method.select = [&problem, tree](int64_t begin, int64_t count, int64_t row) {
    SelectKeysArgs args = problem.Selection(begin, count, row);
    args.search = tree->Search(problem, begin + count);
    problem.ops().SelectKeys(args);
  };
  method.flops = [&problem, tree, flat = method.flops](int64_t position) {
    const AttentionSpan span = problem.Span(position);
    const int64_t scored =
        NumScoredKeys(tree->Search(problem, position + 1), span.SinksEnd(0), span.WindowBegin(0));
    CountedFlops flops = flat(position);
    flops.int8 = FlopsOf(problem.config(), 0, static_cast<double>(scored)).int8;
    return flops;
  };
  return method;
}

// What a guarantee reads, beside the selection, until it holds.
class Guarantee {
 public:
  explicit Guarantee(const Problem& problem)
      : codebooks_(problem.config()),
        codewords_(RandomRows(
            {problem.config().num_kv_heads, kCodeStages * KeyCodebook::kCodewords, problem.config().head_dim},
            0, problem.config().num_kv_heads)),
        codes_(DType::kU8, {problem.length(), problem.config().num_kv_heads, kCodeStages}),
        distance_(DType::kU8, {problem.length(), problem.config().num_kv_heads}),
        bound_(DType::kF32, {kChunk}),
        keys_read_(DType::kI32, {kChunk}) {
    problem.ops().EncodeKeys({problem.keys(), 0, problem.length(), Codebook(), Codes()});
  }

  void Attend(Problem& problem, int64_t begin, int64_t count) {
    GuaranteedAttentionArgs args;
    args.codebook = Codebook();
    args.codes = Codes();
    args.epsilon = kBenchEpsilon;
    args.bound = bound_.view().Rows(0, count);
    args.keys_read = keys_read_.view().Rows(0, count);
    problem.Guaranteed(begin, count, args);
    double keys = 0, visible = 0;
    for (int64_t t = 0; t < count; ++t) {
      keys += args.keys_read.data<int32_t>()[t];
      visible += static_cast<double>(begin + t + 1);
    }
    share_read_ = keys / visible;
  }
  // Of all keys, in the last pass.
  double share_read() const { return share_read_; }

 private:
  KeyCodebook Codebook() const {
    KeyCodebook codebook = codebooks_.OfLayer(0);
    codebook.codewords = codewords_;
    return codebook;
  }
  KeyCodeView Codes() const { return {codes_, distance_, {}, distance_.view().dim(0)}; }

  KeyCodebooks codebooks_;
  Buffer codewords_, codes_, distance_, bound_, keys_read_;
  double share_read_ = 1;
};

Method GuaranteeMethod(Problem& problem) {
  const auto guarantee = std::make_shared<Guarantee>(problem);
  Method method = FlatMethod(problem);
  method.attend = [&problem, guarantee](int64_t begin, int64_t count) {
    guarantee->Attend(problem, begin, count);
  };
  method.flops = [&problem, guarantee, flat = method.flops](int64_t position) {
    // A key's bound is a sum of the stages' products and two more; what is read takes two products of
    // head_dim multiply-adds.
    const auto keys = static_cast<double>(position + 1);
    const double bounds =
        keys * static_cast<double>(kCodeStages + 2) / static_cast<double>(2 * problem.config().head_dim);
    CountedFlops flops = flat(position);
    flops.floats = FlopsOf(problem.config(), guarantee->share_read() * keys + bounds, 0).floats;
    return flops;
  };
  return method;
}

using MakeMethod = Method (*)(Problem&);
const std::vector<std::pair<std::string, MakeMethod>>& Methods() {
  static const std::vector<std::pair<std::string, MakeMethod>> methods = {
      {"dense", DenseMethod}, {"flat", FlatMethod}, {"tree", TreeMethod}, {"guarantee", GuaranteeMethod}};
  return methods;
}

Method MakeMethodOf(const std::string& name, Problem& problem) {
  for (const auto& [known, make] : Methods()) {
    if (known == name) return make(problem);
  }
  throw InputError("there is no method \"{}\"; there are {}", name, fmt::join(AttentionMethodNames(), ", "));
}

double SecondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Measures one method at positions and over prefills.
class Meter {
 public:
  Meter(const Problem& problem, const Method& method) : problem_(problem), method_(method) {}

  // Seconds of all layers and gates for the queries [begin, begin + count).
  double Pass(int64_t begin, int64_t count, int64_t row) const {
    ThrowIfInterrupted();
    const double select = SecondsOf([&] { method_.select(begin, count, row); });
    const double attend = SecondsOf([&] { method_.attend(begin, count); });
    return select * static_cast<double>(problem_.config().num_gates()) +
           attend * static_cast<double>(problem_.config().num_layers);
  }

  double Query(int64_t position) const {
    std::vector<double> seconds;
    double total = 0;
    for (int repeat = 0; repeat < kQueryRepeats && total < kQuerySeconds; ++repeat) {
      const double pass = Pass(position, 1, repeat);
      total += pass;
      if (repeat > 0 || total >= kQuerySeconds) seconds.push_back(pass);  // The first one warms up.
    }
    return Median(std::move(seconds));
  }

  // Seconds per query of a prefill pass that ends at `end`: fewer queries where each costs more.
  double QueryOfTile(int64_t end) {
    const auto known = tiles_.find(end);
    if (known != tiles_.end()) return known->second;
    const int64_t count = std::min(end, std::clamp<int64_t>((int64_t{1} << 26) / end, 64, kChunk));
    std::vector<double> seconds;
    for (int repeat = 0; repeat < kTileRepeats; ++repeat) seconds.push_back(Pass(end - count, count, 0));
    return tiles_[end] = Median(std::move(seconds)) / static_cast<double>(count);
  }

  double EstimatePrefill(int64_t length) {
    int64_t from = std::min<int64_t>(length, kChunk);
    double total = IndexSeconds(length) + static_cast<double>(from) * QueryOfTile(from);
    while (from < length) {
      const int64_t to = std::min(2 * from, length);
      total += static_cast<double>(to - from) * (QueryOfTile(from) + QueryOfTile(to)) / 2;
      from = to;
    }
    return total;
  }

  double Prefill(int64_t length, const std::function<void(int64_t done)>& on_chunk) const {
    double total = IndexSeconds(length);
    for (int64_t begin = 0; begin < length; begin += kChunk) {
      const int64_t count = std::min(kChunk, length - begin);
      total += Pass(begin, count, 0);
      on_chunk(begin + count);
    }
    return total;
  }

 private:
  double IndexSeconds(int64_t length) const {
    return static_cast<double>(length * problem_.config().num_gates()) * method_.index_seconds;
  }

  const Problem& problem_;
  const Method& method_;
  std::map<int64_t, double> tiles_;
};

void CheckOptions(const AttentionCostOptions& options) {
  if (options.lengths.empty() || options.methods.empty()) {
    throw InputError("there is nothing to measure: name at least one length and one method");
  }
  for (const int64_t length : options.lengths) {
    if (length < 2 || length > kMaxLength) {
      throw InputError("--lengths: {} is outside 2 to {} tokens", length, kMaxLength);
    }
  }
  if (options.top_k < 0) throw InputError("--top-k must be at least 1, not {}", options.top_k);
}

}  // namespace

const std::vector<std::string>& AttentionMethodNames() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const auto& [name, make] : Methods()) list.push_back(name);
    return list;
  }();
  return names;
}

std::vector<AttentionCostRow> MeasureAttention(const ModelConfig& config, const AttentionCostOptions& options,
                                               const Session::Progress& progress) {
  CheckOptions(options);
  const int64_t longest = *std::max_element(options.lengths.begin(), options.lengths.end());
  Problem problem(config, options.top_k > 0 ? options.top_k : config.top_k, longest, options.seed);
  const WeightsTable table(config);
  const auto head = static_cast<double>(config.vocab_size * config.hidden_size);
  const double body = static_cast<double>(table.num_active_elements()) - head;
  int64_t total = 0;
  for (const int64_t length : options.lengths) total += length;
  total *= static_cast<int64_t>(options.methods.size());
  int64_t done = 0;
  const auto report = [&](int64_t more) {
    if (progress) progress(done + more, total);
  };
  std::vector<AttentionCostRow> rows;
  for (const std::string& name : options.methods) {
    const Method method = MakeMethodOf(name, problem);
    Meter meter(problem, method);
    for (const int64_t length : options.lengths) {
      report(0);
      AttentionCostRow row;
      row.method = name;
      row.length = length;
      row.query_seconds = meter.Query(length - 1);
      row.query = method.flops(length - 1);
      row.prefill_seconds = meter.EstimatePrefill(length);
      row.prefill_estimated = row.prefill_seconds > options.prefill_seconds;
      if (!row.prefill_estimated) row.prefill_seconds = meter.Prefill(length, report);
      for (int64_t position = 0; position < length; ++position) {
        const CountedFlops flops = method.flops(position);
        row.prefill.floats += flops.floats;
        row.prefill.int8 += flops.int8;
      }
      row.model_flops = row.prefill.total() + 2 * (body * static_cast<double>(length) + head);
      rows.push_back(row);
      done += length;
      report(0);
    }
  }
  return rows;
}

}  // namespace sluice
