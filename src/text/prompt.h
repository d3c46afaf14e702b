// The prompt format, the same in training and in use: special tokens and how turns are put together.
//
//   <|document|> text  <|user|> question  <|assistant|> answer  <|endoftext|>
//
// A document may be followed by several rounds of question and answer; plain text starts without any
// mark and ends with <|endoftext|>.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace sluice {

inline constexpr int32_t kEndOfText = 0;
inline constexpr int32_t kUser = 1;
inline constexpr int32_t kAssistant = 2;
inline constexpr int32_t kDocument = 3;

// Names of the special tokens by id, as the tokenizer has them.
inline constexpr std::array<std::string_view, 4> kSpecialTokens = {"<|endoftext|>", "<|user|>",
                                                                   "<|assistant|>", "<|document|>"};

}  // namespace sluice
