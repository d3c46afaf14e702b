// A run that is stopped and continued is bit for bit the run that was not; a loss that is not finite
// stops it and leaves the last good state.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "backend/backend.h"
#include "base/file.h"
#include "base/threads.h"
#include "tensor/host.h"
#include "text/bpe_trainer.h"
#include "text/prompt.h"

namespace sluice {
namespace {

std::filesystem::path TestFolder() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  return std::filesystem::path(::testing::TempDir()) / ("sluice_trainer_" + std::string(info->name()));
}

Tokenizer ByteTokenizer() {
  BpeTrainerOptions options;
  options.vocab_size = 256 + static_cast<int>(kSpecialTokens.size());
  for (const std::string_view token : kSpecialTokens) options.special_tokens.emplace_back(token);
  BpeTrainer trainer(options);
  return trainer.Train();
}

StageConfig Stage(AttentionMode attention, int64_t steps) {
  StageConfig stage;
  stage.name = attention == AttentionMode::kDense ? "dense" : "sparse";
  stage.steps = steps;
  stage.sequence_length = 256;
  stage.batch_tokens = 512;
  stage.micro_batch_tokens = 256;
  stage.attention = attention;
  stage.top_k_begin = stage.top_k_end = 8;
  stage.gate_kl_weight = 0.1;
  stage.num_extra = 4;
  stage.num_random = 4;
  stage.mix = {0.4, 0.2, 0.2, 0.2};
  return stage;
}

TrainConfig TinyRun() {
  TrainConfig config;
  config.name = "tiny";
  config.model.vocab_size = 260;
  config.model.hidden_size = 16;
  config.model.num_layers = 2;
  config.model.num_heads = 2;
  config.model.head_dim = 8;
  config.model.context_length = 1024;
  config.model.window = 16;
  config.model.top_k = 8;
  config.model.gate = {8, 2, 8, 4, 2};
  config.model.moe = {4, 2, 8, 8};
  config.router.loss = {0.01, 0.001, 0.001};
  config.router.capacity.rule = CapacityRule::kDynamic;
  config.optimizer.warmup_steps = 2;
  config.checkpoint_every = 100;
  config.stages = {Stage(AttentionMode::kDense, 3), Stage(AttentionMode::kDense, 2),
                   Stage(AttentionMode::kSparse, 3)};
  config.stages[1].gate_only = true;
  return config;
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : folder_(TestFolder()), tokenizer_(ByteTokenizer()), ops_(MakeOps("cpu")) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 400; ++i)
      text << "Line " << i << " tells of the weather. It was day " << i * 7 << ".\n";
    text.close();
    corpus_.emplace(Corpus::Open({{{folder_ / "text.txt", 1}}, {}}, tokenizer_));
  }
  ~TrainerTest() override { std::filesystem::remove_all(folder_); }

  // Runs up to `last_step` in folder `run`, with memory of its own, and returns the log without speeds.
  std::string Run(const TrainConfig& config, const std::string& run, int64_t last_step) {
    Model model(config.model, *ops_);
    model.table().Initialize(model.parameters(), 1);
    Trainer trainer(config, model, teacher_.get(), *corpus_, tokenizer_, folder_ / run);
    trainer.Run(last_step);
    std::string log;
    std::istringstream lines(ReadFile(MetricsFile(folder_ / run)));
    for (std::string line; std::getline(lines, line);) log += line.substr(0, line.rfind(',')) + "\n";
    return log;
  }

  // How far the model's expectations of a text's tokens are from the teacher's, in nats a token (KL).
  double Divergence(const Model& model) {
    constexpr int64_t kTokens = 256;
    std::vector<int32_t> tokens, positions, starts(kTokens, 0);
    Buffer weights(ops_->dtype(), {kTokens});
    for (int32_t t = 0; t < kTokens; ++t) {
      tokens.push_back(40 + t * 7 % 80);
      positions.push_back(t);
      StoreElement(weights, t, 1.0 / kTokens);
    }
    const auto view = [](const std::vector<int32_t>& ints) { return TensorView::Of(ints.data(), {kTokens}); };
    TrainingBatch batch;
    batch.tokens = {view(tokens), view(positions), view(starts), kTokens};
    batch.targets = view(tokens);
    batch.weights = weights;
    PassOptions options;
    options.attention = AttentionMode::kDense;
    Arena teacher_arena, arena;
    PassSaved taught, saved;
    teacher_->ForwardLoss(teacher_arena, batch, options, taught);
    batch.teacher = {taught.normed, teacher_->table().Bind(teacher_->parameters()).embedding.floats, 1};
    const double entropy = teacher_->ForwardLoss(arena, batch, options, saved).lm;
    return model.ForwardLoss(arena, batch, options, saved).lm - entropy;
  }

  std::filesystem::path folder_;
  Tokenizer tokenizer_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Model> teacher_;
  std::optional<Corpus> corpus_;
};

TEST_F(TrainerTest, ResumedRunIsTheUninterruptedRunBitForBit) {
  const TrainConfig config = TinyRun();
  const std::string whole = Run(config, "whole", 8);
  for (const int64_t stop : {1, 4, 6}) {
    const std::string run = "stopped_" + std::to_string(stop);
    Run(config, run, stop);
    EXPECT_EQ(Run(config, run, 8), whole) << "stopped after step " << stop;
    EXPECT_EQ(ReadFile(StateFile(folder_ / run)), ReadFile(StateFile(folder_ / "whole")));
  }
}

TEST_F(TrainerTest, SameBitsWithOneAndTwoThreads) {
  const TrainConfig config = TinyRun();
  SetNumThreads(1);
  const std::string one = Run(config, "one", 8);
  SetNumThreads(2);
  EXPECT_EQ(Run(config, "two", 8), one);
}

TEST_F(TrainerTest, LinesOfUndoneStepsAreDropped) {
  TrainConfig config = TinyRun();
  config.checkpoint_every = 2;
  Run(config, "run", 2);
  const std::string state = ReadFile(StateFile(folder_ / "run"));
  Run(config, "run", 3);
  WriteFileAtomically(StateFile(folder_ / "run"), state);  // As if killed after step 3, before saving.
  EXPECT_EQ(Run(config, "run", 8), Run(config, "whole", 8));
}

TEST_F(TrainerTest, LossThatIsNotFiniteStopsAndKeepsTheLastState) {
  TrainConfig config = TinyRun();
  Run(config, "run", 3);
  const std::string state = ReadFile(StateFile(folder_ / "run"));
  config.optimizer.gate_lr = std::numeric_limits<double>::infinity();  // Breaks the step after next.
  try {
    Run(config, "run", 8);
    FAIL() << "training went on";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("training stopped at step 5"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("of step 3"));
  }
  EXPECT_EQ(ReadFile(StateFile(folder_ / "run")), state);
}

TEST_F(TrainerTest, FrozenParametersKeepTheirValues) {
  TrainConfig config = TinyRun();
  config.model.gate.bias = true;
  const auto moved = [&](const std::string& run) {
    Model model(config.model, *ops_), start(config.model, *ops_);
    for (Model* each : {&model, &start}) each->table().Initialize(each->parameters(), 1);
    Trainer(config, model, nullptr, *corpus_, tokenizer_, folder_ / run).Run(8);
    const auto bias = [](const Model& of) {
      return LoadElement(of.table().Bind(of.parameters()).layers[0].gate_bias, 0);
    };
    return bias(model) - bias(start);
  };
  EXPECT_NE(moved("free"), 0);
  config.optimizer.frozen = {"gate_bias"};
  EXPECT_EQ(moved("frozen"), 0);
  config.optimizer.frozen = {"gate_bios"};
  EXPECT_THROW(moved("unknown"), InputError);
}

// Of two runs from the same weights the one that has a teacher ends nearer to it.
TEST_F(TrainerTest, TeacherIsFollowed) {
  TrainConfig config = TinyRun();
  for (StageConfig& stage : config.stages) stage.steps *= 5;
  teacher_ = std::make_unique<Model>(config.model, *ops_);
  teacher_->table().Initialize(teacher_->parameters(), 2);
  const auto distance = [&](double share, const std::string& run) {
    config.teacher.share = share;
    Model model(config.model, *ops_);
    model.table().Initialize(model.parameters(), 1);
    Trainer(config, model, teacher_.get(), *corpus_, tokenizer_, folder_ / run).Run(40);
    return Divergence(model);
  };
  EXPECT_LT(distance(1, "taught"), 0.5 * distance(0, "alone"));
}

TEST_F(TrainerTest, DamagedStateIsRefused) {
  const TrainConfig config = TinyRun();
  Run(config, "run", 2);
  std::string state = ReadFile(StateFile(folder_ / "run"));
  state[state.size() / 2] = static_cast<char>(state[state.size() / 2] ^ 4);
  WriteFileAtomically(StateFile(folder_ / "run"), state);
  EXPECT_THROW(Run(config, "run", 4), InputError);
}

}  // namespace
}  // namespace sluice
