// Shared parts of the attention cases.
#include "backend/testing/attention_cases.h"

#include <algorithm>
#include <numeric>

#include "tensor/float16.h"

namespace sluice {

std::string AttentionShape::ToString() const {
  const std::string bias = bias_columns > 0 ? fmt::format(", {} bias columns", bias_columns) : "";
  const std::string stored =
      paged ? fmt::format(", pages of {}{}", NameOf(format), rounded ? ", rounded" : "") : "";
  return fmt::format(
      "{} tokens at {}, {}/{} heads of {}, window {}, {} sinks, {} segment starts, scale {}{}{}", tokens,
      query_offset, query_heads, kv_heads, head_size, window, num_sinks, segment_start.size(), scale, bias,
      stored);
}

AttentionShape AttentionShape::WithFullBias() const {
  AttentionShape shape = *this;
  const AttentionSpan span = shape.Span();
  shape.bias_columns = 1;
  for (int64_t t = 0; t < tokens; ++t) shape.bias_columns = std::max(shape.bias_columns, span.NumFar(t));
  return shape;
}

AttentionShape AttentionShape::Stored(DType row_format) const {
  AttentionShape shape = *this;
  shape.format = row_format;
  shape.paged = true;
  shape.spare_keys += (kPageRows - keys() % kPageRows) % kPageRows;
  return shape;
}

AttentionSpan AttentionShape::Span() {
  AttentionSpan span;
  span.query_offset = query_offset;
  span.window = window;
  span.num_sinks = num_sinks;
  if (!segment_start.empty()) span.segment_start = TensorView::Of(segment_start.data(), {tokens});
  return span;
}

namespace {

Fill RoundedNormal(double scale) {
  return [fill = Normal(scale)](int64_t n, Random& random) {
    std::vector<double> values = fill(n, random);
    for (double& value : values) value = FloatFromBF16(BF16FromFloat(static_cast<float>(value)));
    return values;
  };
}

// Memory for keys and values in the shape's format, and its pages.
void AddKeyRows(const AttentionShape& s, OpCase* c) {
  std::vector<int32_t> pages(static_cast<size_t>(s.keys() / kPageRows));
  std::iota(pages.rbegin(), pages.rend(), 0);
  c->Ints("pages", {std::ssize(pages)}, pages);
  for (const std::string name : {"k_rows", "v_rows"}) {
    const Shape shape = {s.keys(), s.kv_heads, s.head_size};
    if (s.format == DType::kF32) {
      c->Out(name, shape);
    } else {
      c->IntsOut(name, shape, s.format);
    }
    if (s.format == DType::kI8) c->IntsOut(name + "_scale", {s.keys(), s.kv_heads}, DType::kF16);
  }
}

KeyRows RowsOf(const Tensors& t, const std::string& name, int64_t num_rows) {
  KeyRows rows;
  rows.rows = t[name];
  rows.scale = t.Optional(name + "_scale");
  rows.map.pages = t["pages"].data<int32_t>();
  rows.num_rows = num_rows;
  return rows;
}

}  // namespace

std::vector<AttentionShape> BFloat16Shapes() {
  std::vector<AttentionShape> shapes = {
      {.tokens = 1, .query_heads = 1, .head_size = 64, .window = 7, .query_offset = 130},
      {.tokens = 40, .query_heads = 3, .head_size = 64, .window = 30, .query_offset = 61},
      {.tokens = 5, .query_heads = 16, .kv_heads = 2, .head_size = 64, .window = 128, .query_offset = 211},
      {.tokens = 20, .query_heads = 5, .head_size = 64, .window = 1, .num_sinks = 0, .query_offset = 64},
      {.tokens = 4, .query_heads = 12, .kv_heads = 1, .head_size = 64, .window = 100},
      {.tokens = 3, .query_heads = 2, .head_size = 64, .window = 20, .query_offset = 200, .k_rot_begin = 181},
      {.tokens = 6,
       .query_heads = 3,
       .head_size = 64,
       .window = 9,
       .query_offset = 70,
       .segment_start = {3, 3, 3, 73, 73, 73}},
      {.tokens = 12,
       .query_heads = 3,
       .head_size = 64,
       .window = 40,
       .query_offset = 1100},  // Several chunks.
      {.tokens = 9, .query_heads = 7, .head_size = 64, .window = 20, .query_offset = 100, .scale = 20},
      {.tokens = 4, .query_heads = 2, .head_size = 128, .window = 20, .query_offset = 90}};
  for (AttentionShape& shape : shapes) {
    shape = shape.Stored(DType::kBF16);
    shape.rounded = true;
  }
  return shapes;
}

void AddAttentionInputs(const AttentionShape& s, OpCase* c) {
  const Shape queries = {s.tokens, s.query_heads, s.head_size};
  const Fill query_fill = s.rounded ? RoundedNormal(s.scale) : Normal(s.scale);
  c->In("q", queries, query_fill).In("q_rot", queries, query_fill);
  c->In("k", {s.keys(), s.kv_heads, s.head_size});
  c->In("k_rot", {s.keys() - s.k_rot_begin, s.kv_heads, s.head_size},
        s.rounded ? RoundedNormal(1) : Normal());
  c->In("v", {s.keys(), s.kv_heads, s.head_size}).In("sink_logit", {s.query_heads});
  if (!s.segment_start.empty()) c->Ints("segment_start", {s.tokens}, s.segment_start);
  if (s.paged) AddKeyRows(s, c);
  if (s.bias_columns > 0) c->In("bias_scores", {s.tokens, s.bias_columns}).In("bias_weight", {s.query_heads});
}

void AddAttentionGrads(const AttentionShape& s, OpCase* c) {
  const Shape queries = {s.tokens, s.query_heads, s.head_size};
  const Shape keys = {s.keys(), s.kv_heads, s.head_size};
  c->In("dout", queries).Out("dq", queries).Out("dq_rot", queries);
  c->Out("dk", keys).Out("dk_rot", keys).Out("dv", keys).InOut("dsink_logit_acc", {s.query_heads});
  for (const char* name : {"q", "q_rot", "k", "k_rot", "v", "sink_logit"}) c->differentiable.push_back(name);
  if (s.bias_columns == 0) return;
  c->InOut("dbias_scores_acc", {s.tokens, s.bias_columns}).InOut("dbias_weight_acc", {s.query_heads});
  for (const char* name : {"bias_scores", "bias_weight"}) c->differentiable.push_back(name);
}

AttentionInputs InputsOf(const Tensors& t, const AttentionShape& s, int64_t begin, int64_t end) {
  AttentionInputs in;
  in.q = t["q"].Rows(begin, end);
  in.q_rot = t["q_rot"].Rows(begin, end);
  in.k = t["k"];
  in.k_rot = t["k_rot"];
  in.k_rot_begin = s.k_rot_begin;
  in.v = t["v"];
  in.sink_logit = t["sink_logit"];
  if (s.bias_columns > 0) in.bias = {t["bias_scores"].Rows(begin, end), t["bias_weight"]};
  in.span.query_offset = s.query_offset + begin;
  in.span.window = s.window;
  in.span.num_sinks = s.num_sinks;
  if (!s.segment_start.empty()) in.span.segment_start = t["segment_start"].Rows(begin, end);
  return in;
}

AttentionInputs StoredInputs(Ops& ops, const Tensors& t, const AttentionShape& s, int64_t begin,
                             int64_t end) {
  AttentionInputs in = InputsOf(t, s, begin, end);
  if (!s.paged) return in;
  in.k = RowsOf(t, "k_rows", s.keys());
  in.v = RowsOf(t, "v_rows", s.keys());
  ops.StoreKeyRows({t["k"], 0, in.k});
  ops.StoreKeyRows({t["v"], 0, in.v});
  return in;
}

AttentionInputGrads GradsOf(const Tensors& t) {
  return {t["dq"],
          t["dq_rot"],
          t["dk"],
          t["dk_rot"],
          t["dv"],
          t["dsink_logit_acc"],
          t.Optional("dbias_scores_acc"),
          t.Optional("dbias_weight_acc")};
}

std::vector<int32_t> RandomCandidates(AttentionShape shape, int64_t num_selected, int64_t width,
                                      Padding padding, uint64_t seed) {
  Random random(seed);
  const AttentionSpan span = shape.Span();
  std::vector<int32_t> candidates(static_cast<size_t>(shape.tokens * width), -1);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    std::vector<int32_t> far(static_cast<size_t>(span.NumFar(t)));
    std::iota(far.begin(), far.end(), static_cast<int32_t>(span.SinksEnd(t)));
    const auto shuffle = [&](auto first, int64_t n) {
      for (int64_t i = n - 1; i > 0; --i)
        std::swap(first[i], first[static_cast<int64_t>(random.Below(static_cast<uint64_t>(i + 1)))]);
    };
    shuffle(far.begin(), static_cast<int64_t>(far.size()));
    const int64_t present = std::min(width, static_cast<int64_t>(far.size()));
    const auto row = candidates.begin() + t * width;
    std::copy_n(far.begin(), present, row);
    if (padding == Padding::kAnywhere) {
      shuffle(row, width);
      continue;
    }
    std::sort(row, row + std::min(present, num_selected));
    if (present > num_selected) std::sort(row + num_selected, row + present);
  }
  return candidates;
}

}  // namespace sluice
