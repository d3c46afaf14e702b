#include "checkpoint/json_object.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

nlohmann::ordered_json ReadJson(const std::filesystem::path& file) {
  const std::string text = ReadFile(file);
  try {
    return nlohmann::ordered_json::parse(text, nullptr, true, /*ignore_comments=*/true);
  } catch (const nlohmann::json::exception& error) {
    throw InputError("{}: not valid JSON: {}", file.string(), error.what());
  }
}

JsonObject::JsonObject(const nlohmann::ordered_json& json, std::string where)
    : json_(&json), where_(std::move(where)) {
  if (!json.is_object()) throw InputError("{}: expected an object {{...}}", where_);
}

const nlohmann::ordered_json& JsonObject::Find(const char* key) {
  seen_.insert(key);
  const auto entry = json_->find(key);
  if (entry == json_->end()) throw InputError("{}: \"{}\" is missing", where_, key);
  return *entry;
}

void JsonObject::Read(const char* key, int64_t& value) {
  const auto& entry = Find(key);
  if (!entry.is_number_integer()) throw InputError("{}: \"{}\" must be a whole number", where_, key);
  value = entry.get<int64_t>();
}

void JsonObject::Read(const char* key, double& value) {
  const auto& entry = Find(key);
  if (!entry.is_number()) throw InputError("{}: \"{}\" must be a number", where_, key);
  value = entry.get<double>();
}

void JsonObject::Read(const char* key, bool& value) {
  const auto& entry = Find(key);
  if (!entry.is_boolean()) throw InputError("{}: \"{}\" must be true or false", where_, key);
  value = entry.get<bool>();
}

void JsonObject::Read(const char* key, std::string& value) {
  const auto& entry = Find(key);
  if (!entry.is_string()) throw InputError("{}: \"{}\" must be a string", where_, key);
  value = entry.get<std::string>();
}

void JsonObject::ReadOptional(const char* key, std::vector<std::string>& values) {
  if (!json_->contains(key)) return;
  const auto& list = Find(key);
  const auto is_text = [](const auto& item) { return item.is_string(); };
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), is_text))
    throw InputError("{}: \"{}\" must be a list of texts", where_, key);
  values = list.get<std::vector<std::string>>();
}

void JsonObject::ReadOptional(const char* key, bool& value) {
  if (json_->contains(key)) Read(key, value);
}

void JsonObject::ReadOptional(const char* key, double& value) {
  if (json_->contains(key)) Read(key, value);
}

JsonObject JsonObject::Object(const char* key) {
  return JsonObject(Find(key), where_ + ": " + key);
}

std::vector<JsonObject> JsonObject::Objects(const char* key) {
  const auto& list = Find(key);
  if (!list.is_array()) throw InputError("{}: \"{}\" must be a list [...]", where_, key);
  std::vector<JsonObject> objects;
  for (size_t i = 0; i < list.size(); ++i)
    objects.emplace_back(list[i], fmt::format("{}: {}[{}]", where_, key, i));
  return objects;
}

void JsonObject::RejectUnknown() const {
  for (const auto& [key, value] : json_->items()) {
    if (!seen_.contains(key)) throw InputError("{}: unknown key \"{}\"", where_, key);
  }
}

}  // namespace sluice
