// Strict reading of JSON objects: every wanted key must be there with the right type, and no other,
// so that a typing mistake never becomes a silent default. Comments (// and /* */) are allowed.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sluice {

// Parses a file; InputError naming it if it is missing or not JSON.
nlohmann::ordered_json ReadJson(const std::filesystem::path& file);

class JsonObject {
 public:
  // `where` stands in front of every error, for example "configs/nano.json: model". `json` must
  // outlive this object. InputError if it is not an object.
  JsonObject(const nlohmann::ordered_json& json, std::string where);

  const std::string& where() const { return where_; }
  void Read(const char* key, int64_t& value);
  void Read(const char* key, double& value);
  void Read(const char* key, bool& value);
  void Read(const char* key, std::string& value);
  // A string that stands for one of `choices`.
  template <class T>
  void Read(const char* key, std::initializer_list<std::pair<const char*, T>> choices, T& value) {
    std::string name;
    Read(key, name);
    std::string expected;
    for (const auto& [choice_name, choice] : choices) {
      if (name == choice_name) {
        value = choice;
        return;
      }
      expected += (expected.empty() ? "\"" : ", \"") + std::string(choice_name) + "\"";
    }
    throw InputError("{}: \"{}\" is \"{}\"; it must be one of {}", where_, key, name, expected);
  }
  // A key that is not there leaves the value as it is; the first is a list of texts.
  void ReadOptional(const char* key, std::vector<std::string>& values);
  void ReadOptional(const char* key, bool& value);
  void ReadOptional(const char* key, double& value);
  // The value of a key that must be there, of any type.
  const nlohmann::ordered_json& Find(const char* key);
  JsonObject Object(const char* key);
  std::vector<JsonObject> Objects(const char* key);
  // Call last: InputError if a key was not asked for.
  void RejectUnknown() const;

 private:
  const nlohmann::ordered_json* json_;
  std::string where_;
  std::set<std::string> seen_;
};

}  // namespace sluice
