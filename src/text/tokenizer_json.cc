// Reading: nlohmann-json parses; everything it reports (syntax, types) becomes an InputError that
// names the file. Features that would change the tokens and are not implemented are refused.
#include "text/tokenizer_json.h"

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "base/check.h"
#include "base/error.h"
#include "text/utf8.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

// byte -> code point of its printable stand-in.
std::array<uint32_t, 256> MakeByteAlphabet() {
  std::array<uint32_t, 256> alphabet = {};
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}

const std::array<uint32_t, 256>& ByteAlphabet() {
  static const std::array<uint32_t, 256> alphabet = MakeByteAlphabet();
  return alphabet;
}

// The bytes that a vocabulary key spells; nothing if a character is outside the alphabet.
std::optional<std::string> FromByteLevel(std::string_view key) {
  static const std::array<int, 512> byte_of = [] {
    std::array<int, 512> table;
    table.fill(-1);
    for (int b = 0; b < 256; ++b) table[ByteAlphabet()[static_cast<size_t>(b)]] = b;
    return table;
  }();
  std::string bytes;
  while (!key.empty()) {
    const Utf8Char c = DecodeUtf8(key);
    if (c.status != Utf8Status::kValid || c.code_point >= 512 || byte_of[c.code_point] < 0)
      return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of[c.code_point]));
    key.remove_prefix(c.length);
  }
  return bytes;
}

// A value of the file with the path that leads to it, for messages.
class Field {
 public:
  Field(const Json& json, std::string file, std::string path)
      : json_(&json), file_(std::move(file)), path_(std::move(path)) {}

  template <class... Args>
  [[noreturn]] void Fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw InputError("{}: {}: {}", file_, path_, fmt::format(format, std::forward<Args>(args)...));
  }

  const Json& json() const { return *json_; }
  bool IsNull() const { return json_->is_null(); }

  // An absent member reads as null.
  Field operator[](const std::string& key) const {
    static const Json null;
    if (!json_->is_object()) Fail("expected an object");
    const auto it = json_->find(key);
    return Field(it == json_->end() ? null : *it, file_, path_.empty() ? key : path_ + "." + key);
  }
  std::vector<Field> Elements() const {
    if (!json_->is_array()) Fail("expected an array");
    std::vector<Field> elements;
    for (size_t i = 0; i < json_->size(); ++i) {
      elements.emplace_back((*json_)[i], file_, fmt::format("{}[{}]", path_, i));
    }
    return elements;
  }
  std::string String() const {
    if (!json_->is_string()) Fail("expected a string");
    return json_->get<std::string>();
  }
  bool Bool(bool if_absent) const {
    if (IsNull()) return if_absent;
    if (!json_->is_boolean()) Fail("expected true or false");
    return json_->get<bool>();
  }
  int32_t Id() const {
    if (!json_->is_number_integer() || *json_ < 0 || *json_ > 0x7FFFFFFE)
      Fail("expected a token id, 0 or more");
    return json_->get<int32_t>();
  }
  // Refuses anything but null, false and "".
  void RequireUnset() const {
    const bool unset =
        IsNull() || *json_ == false || (json_->is_string() && json_->get_ref<const std::string&>().empty());
    if (!unset) Fail("{} is not supported, only null", Shown());
  }
  std::string Shown() const {
    return json_->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60);
  }

 private:
  const Json* json_;
  std::string file_;
  std::string path_;
};

using IdByKey = std::unordered_map<std::string, int32_t>;

IdByKey ReadVocab(const Field& model, const std::vector<AddedToken>& added, TokenizerParts* parts) {
  const Field vocab = model["vocab"];
  if (!vocab.json().is_object()) vocab.Fail("expected an object from token to id");
  size_t size = vocab.json().size();
  for (const AddedToken& token : added) size += !vocab.json().contains(token.content);
  parts->token_bytes.resize(size);
  parts->vocab_keys.assign(size, VocabKey::kAbsent);
  std::vector<bool> seen(size, false);
  const auto claim = [&](const Field& field, int32_t id) {
    if (static_cast<size_t>(id) >= size) {
      field.Fail("id {} with only {} tokens: ids must be 0 to {} without holes", id, size, size - 1);
    }
    if (seen[static_cast<size_t>(id)]) field.Fail("id {} is used twice", id);
    seen[static_cast<size_t>(id)] = true;
  };
  IdByKey ids;
  ids.reserve(size);
  for (const auto& [key, value] : vocab.json().items()) {
    if (key.empty()) vocab.Fail("a token is empty");
    const Field field = vocab[key];
    const int32_t id = field.Id();
    claim(field, id);
    std::optional<std::string> bytes = FromByteLevel(key);
    const auto i = static_cast<size_t>(id);
    parts->vocab_keys[i] = bytes ? VocabKey::kByteLevel : VocabKey::kVerbatim;
    parts->token_bytes[i] = bytes ? *std::move(bytes) : key;
    ids.emplace(key, id);
  }
  for (const AddedToken& token : added) {
    const Field field = vocab[token.content];
    if (field.IsNull()) {
      claim(field, token.id);
    } else if (field.Id() != token.id) {
      field.Fail("id {} here, but {} in added_tokens", field.Id(), token.id);
    } else {
      parts->vocab_keys[static_cast<size_t>(token.id)] = VocabKey::kVerbatim;
    }
    parts->token_bytes[static_cast<size_t>(token.id)] = token.content;
  }
  return ids;
}

void ReadMerges(const Field& model, const IdByKey& ids, TokenizerParts* parts) {
  const Field merges = model["merges"];
  const auto find = [&](const Field& field, const std::string& key) {
    const auto it = ids.find(key);
    if (it == ids.end()) field.Fail("\"{}\" is not in model.vocab", key);
    return it->second;
  };
  for (const Field& merge : merges.Elements()) {
    std::string left, right;
    if (merge.json().is_string()) {
      const std::string both = merge.String();
      const size_t space = both.find(' ');
      if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
        merge.Fail("\"{}\" is not two tokens with a space between", both);
      }
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else {
      const std::vector<Field> pair = merge.Elements();
      if (pair.size() != 2) merge.Fail("a merge has two tokens, not {}", pair.size());
      left = pair[0].String();
      right = pair[1].String();
    }
    const BpeMerge ids_of = {find(merge, left), find(merge, right), find(merge, left + right)};
    const auto bytes = [&](int32_t id) -> const std::string& {
      return parts->token_bytes[static_cast<size_t>(id)];
    };
    if (bytes(ids_of.left) + bytes(ids_of.right) != bytes(ids_of.result)) {
      merge.Fail("\"{}\" is an added token whose spelling is not its bytes", left + right);
    }
    parts->merges.push_back(ids_of);
  }
}

std::vector<AddedToken> ReadAddedTokens(const Field& root) {
  std::vector<AddedToken> added;
  if (root["added_tokens"].IsNull()) return added;
  std::unordered_map<std::string, int32_t> seen;
  for (const Field& entry : root["added_tokens"].Elements()) {
    AddedToken token;
    token.id = entry["id"].Id();
    token.content = entry["content"].String();
    token.special = entry["special"].Bool(false);
    token.normalized = entry["normalized"].Bool(!token.special);
    if (token.content.empty()) entry.Fail("an added token is empty");
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) entry[flag].RequireUnset();
    if (!seen.emplace(token.content, token.id).second) entry.Fail("\"{}\" is listed twice", token.content);
    added.push_back(std::move(token));
  }
  return added;
}

void ReadModel(const Field& root, TokenizerParts* parts) {
  const Field model = root["model"];
  if (model.IsNull()) model.Fail("is missing");
  if (const Field type = model["type"]; !type.IsNull() && type.String() != "BPE") {
    type.Fail("\"{}\" is not supported, only BPE", type.String());
  }
  if (const Field dropout = model["dropout"]; !dropout.IsNull() && dropout.json() != 0)
    dropout.RequireUnset();
  for (const char* unsupported : {"continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    model[unsupported].RequireUnset();
  }
  parts->unk_token_json = model["unk_token"].IsNull() ? "null" : Json(model["unk_token"].String()).dump();
  parts->fuse_unk = model["fuse_unk"].Bool(false);
  parts->ignore_merges = model["ignore_merges"].Bool(false);
  parts->added_tokens = ReadAddedTokens(root);
  const IdByKey ids = ReadVocab(model, parts->added_tokens, parts);
  for (int b = 0; b < 256; ++b) {
    const std::string key = ToByteLevel(std::string(1, static_cast<char>(b)));
    const auto it = ids.find(key);
    if (it == ids.end()) {
      model["vocab"].Fail("no token \"{}\" for byte 0x{:02X}: not a byte-level vocabulary", key, b);
    }
    if (parts->token_bytes[static_cast<size_t>(it->second)] != std::string(1, static_cast<char>(b))) {
      model["vocab"].Fail("\"{}\" is both byte 0x{:02X} and an added token", key, b);
    }
    parts->byte_ids[static_cast<size_t>(b)] = it->second;
  }
  ReadMerges(model, ids, parts);
}

void ReadNormalizer(const Field& normalizer, TokenizerParts* parts) {
  if (normalizer.IsNull()) return;
  const Field type = normalizer["type"];
  if (type.String() == "Sequence") {
    for (const Field& step : normalizer["normalizers"].Elements()) ReadNormalizer(step, parts);
  } else if (type.String() == "NFC") {
    parts->nfc = true;
  } else {
    type.Fail("\"{}\" is not supported, only NFC", type.String());
  }
}

void ReadSplit(const Field& split, TokenizerParts* parts) {
  const Field behavior = split["behavior"];
  const bool invert = split["invert"].Bool(false);
  // "Isolated" keeps what lies between matches as pieces; "Removed" inverted drops it.
  const bool isolated = behavior.String() == "Isolated";
  if (!isolated && !(behavior.String() == "Removed" && invert)) {
    behavior.Fail("\"{}\"{} is not supported, only Isolated", behavior.String(), invert ? " inverted" : "");
  }
  const std::string pattern = split["pattern"]["Regex"].String();
  try {
    const Regex check(pattern);
  } catch (const InputError& error) {
    split["pattern"].Fail("{}", error.what());
  }
  parts->split_steps.push_back({pattern, isolated});
}

void ReadPreTokenizer(const Field& pre_tokenizer, TokenizerParts* parts, bool* has_byte_level) {
  if (*has_byte_level) pre_tokenizer.Fail("nothing may follow ByteLevel");
  const Field type = pre_tokenizer["type"];
  if (type.String() == "Sequence") {
    for (const Field& step : pre_tokenizer["pretokenizers"].Elements()) {
      ReadPreTokenizer(step, parts, has_byte_level);
    }
  } else if (type.String() == "Split") {
    ReadSplit(pre_tokenizer, parts);
  } else if (type.String() == "ByteLevel") {
    *has_byte_level = true;
    parts->add_prefix_space = pre_tokenizer["add_prefix_space"].Bool(true);
    if (parts->add_prefix_space && !parts->split_steps.empty()) {
      pre_tokenizer["add_prefix_space"].Fail("true after a Split is not supported");
    }
    if (pre_tokenizer["use_regex"].Bool(true))
      parts->split_steps.push_back({std::string(kGpt2Pattern), true});
  } else {
    type.Fail("\"{}\" is not supported, only Sequence, Split and ByteLevel", type.String());
  }
}

void ReadPipeline(const Field& root, TokenizerParts* parts) {
  for (const char* unsupported : {"truncation", "padding"}) root[unsupported].RequireUnset();
  ReadNormalizer(root["normalizer"], parts);
  const Field pre_tokenizer = root["pre_tokenizer"];
  if (pre_tokenizer.IsNull()) pre_tokenizer.Fail("is missing: only byte-level tokenizers are supported");
  bool has_byte_level = false;
  ReadPreTokenizer(pre_tokenizer, parts, &has_byte_level);
  if (!has_byte_level) pre_tokenizer.Fail("has no ByteLevel step: only byte-level tokenizers are supported");
  const Field decoder = root["decoder"];
  if (decoder.IsNull() || decoder["type"].String() != "ByteLevel")
    decoder.Fail("only ByteLevel is supported");
  parts->normalizer_json = root["normalizer"].json().dump();
  parts->pre_tokenizer_json = pre_tokenizer.json().dump();
  parts->post_processor_json = root["post_processor"].json().dump();
  parts->decoder_json = decoder.json().dump();
}

}  // namespace

std::string ToByteLevel(std::string_view bytes) {
  std::string key;
  for (const char c : bytes) AppendUtf8(ByteAlphabet()[static_cast<uint8_t>(c)], &key);
  return key;
}

void SetByteLevelPattern(std::string_view pattern, TokenizerParts* parts) {
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", std::string(pattern)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  parts->split_steps = {{std::string(pattern), true}};
  parts->pre_tokenizer_json =
      Json{{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}.dump();
  parts->decoder_json = byte_level.dump();
}

TokenizerParts ParseTokenizerJson(std::string_view json, const std::string& name) {
  TokenizerParts parts;
  try {
    const Json document = Json::parse(json);
    const Field root(document, name, "");
    if (!document.is_object()) throw InputError("{}: not a tokenizer.json: expected an object", name);
    ReadModel(root, &parts);
    ReadPipeline(root, &parts);
  } catch (const Json::exception& error) {
    throw InputError("{}: not a valid tokenizer.json: {}", name, error.what());
  }
  return parts;
}

std::string WriteTokenizerJson(const TokenizerParts& parts) {
  const auto key_of = [&](size_t id) {
    SLUICE_CHECK(parts.vocab_keys[id] != VocabKey::kAbsent);
    return parts.vocab_keys[id] == VocabKey::kVerbatim ? parts.token_bytes[id]
                                                       : ToByteLevel(parts.token_bytes[id]);
  };
  const auto quoted = [](const std::string& text) { return Json(text).dump(); };
  std::string out =
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n";
  for (const AddedToken& token : parts.added_tokens) {
    out += fmt::format(
        "{}    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
        "\"normalized\": {}, \"special\": {}}}",
        separator, token.id, quoted(token.content), token.normalized, token.special);
    separator = ",\n";
  }
  out += fmt::format(
      "\n  ],\n  \"normalizer\": {},\n  \"pre_tokenizer\": {},\n  \"post_processor\": {},\n  \"decoder\": "
      "{},\n",
      parts.normalizer_json, parts.pre_tokenizer_json, parts.post_processor_json, parts.decoder_json);
  out += fmt::format(
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": {},\n"
      "    \"byte_fallback\": false,\n    \"ignore_merges\": {},\n    \"vocab\": {{",
      parts.unk_token_json, parts.fuse_unk, parts.ignore_merges);
  separator = "\n";
  for (size_t id = 0; id < parts.token_bytes.size(); ++id) {
    if (parts.vocab_keys[id] == VocabKey::kAbsent) continue;
    out += fmt::format("{}      {}: {}", separator, quoted(key_of(id)), id);
    separator = ",\n";
  }
  out += "\n    },\n    \"merges\": [";
  separator = "\n";
  for (const BpeMerge& merge : parts.merges) {
    const std::string left = key_of(static_cast<size_t>(merge.left));
    const std::string right = key_of(static_cast<size_t>(merge.right));
    const bool has_space = (left + right).find(' ') != std::string::npos;
    out += separator;
    out += "      " + (has_space ? Json::array({left, right}).dump() : quoted(left + " " + right));
    separator = ",\n";
  }
  out += "\n    ]\n  }\n}\n";
  return out;
}

}  // namespace sluice
