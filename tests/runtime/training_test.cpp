// Training: the same curve whatever the schedule, and going on as if nothing had happened.
#include "tests/support/training.hpp"

#include "runtime/checkpoint.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

namespace plumb {
namespace {

namespace fs = std::filesystem;
using test::plan_of;
using test::tiny_gpt;

// A folder of the test's own, gone afterwards.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("plumb-training-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

// A head tied to its embedding, since that is what crosses the stages of a step, a norm and a checkpoint.
TrainingPlan named(const char* name, std::uint32_t ranks, std::uint32_t microbatches) {
  ModelShape model = tiny_gpt(8);
  model.tied_embeddings = true;
  return plan_of(model, make_lowered(generator(name), {ranks, microbatches, {}, {}}, {}));
}

// The loss of each step from `first` to `last`.
std::vector<double> train(std::vector<std::unique_ptr<Worker>>& workers, const TrainingPlan& plan,
                          const TrainingData& data, std::uint64_t first, std::uint64_t last) {
  std::vector<double> losses(last - first + 1);
  run_together(workers, [&](Worker& worker) {
    for (std::uint64_t step = first; step <= last; ++step) {
      const StepResult result = train_step(worker, plan, data, step);
      if (worker.rank() == Rank{0} && worker.copy() == 0) losses[step - first] = result.loss;
    }
  });
  return losses;
}

TEST(Training, GivesOneLossCurveUnderEverySchedule) {
  const auto curve = [](const char* name, std::uint32_t ranks) {
    TrainingPlan plan = named(name, ranks, 8);
    plan.optimizer.learning_rate = 1e-2;
    const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 3);
    auto workers = make_cpu_workers(plan);
    return train(workers, plan, data, 1, 200);
  };
  const std::vector<double> whole = curve("1f1b", 1);
  // It begins at about the logarithm of 32 tokens, 3.47, and learns: seven tokens in eight follow from the
  // one before, so the least loss possible is near 0.8.
  EXPECT_NEAR(whole.front(), std::log(32.0), 0.1);
  EXPECT_LT(whole.back(), 2.0);
  for (const char* name : {"1f1b", "zb-h1", "dualpipe"}) {
    const std::vector<double> losses = curve(name, 4);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      ASSERT_NEAR(losses[i], whole[i], 1e-5) << name << ", step " << i + 1;
    }
  }
}

// One step by hand against AdamW's formulas: after the first step the moments' corrections cancel, so every
// weight moves by the rate times its gradient's sign (but for epsilon), and matrices shrink by rate x decay.
TEST(Training, TheFirstStepMovesEveryWeightByTheRate) {
  TrainingPlan plan = named("1f1b", 2, 4);
  plan.optimizer.clip_norm = 0;
  const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 4);
  auto workers = make_cpu_workers(plan);
  const Stage stage{1};
  const StageState before = workers[1]->state(stage);
  train(workers, plan, data, 1, 1);
  const StageState after = workers[1]->state(stage);
  const std::vector<float> gradients = workers[1]->gradients(stage);
  const double rate = plan.optimizer.learning_rate;
  std::size_t moved = 0;
  for (const ParameterSpec& parameter : stage_parameters(plan.model, plan.layout.stages[1])) {
    for (std::uint64_t i = parameter.offset; i < parameter.offset + parameter.elements(); ++i) {
      if (std::abs(gradients[i]) < 1e-5) continue;  // where epsilon (1e-8) would show
      const double shrunk =
          before.weights[i] * (parameter.decays ? 1 - rate * plan.optimizer.weight_decay : 1);
      ASSERT_NEAR(after.weights[i], shrunk - (gradients[i] > 0 ? rate : -rate), 1e-6) << parameter.name;
      ++moved;
    }
  }
  EXPECT_GT(moved, 1000u);
}

// The norm is that of all stages together, each counted once although DualPipe holds it twice; beyond the
// limit all gradients shrink alike: after one step the first moments are (1 - 0.9) of gradients whose norm is
// the limit.
TEST(Training, GradientsAreClippedByTheirCommonNorm) {
  TrainingPlan plan = named("dualpipe", 4, 8);
  const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 5);
  auto workers = make_cpu_workers(plan);
  std::vector<StepResult> results(workers.size());
  run_together(workers, [&](Worker& worker) {
    results[worker.rank().value] = forward_and_backward(worker, plan, data, 1);
  });
  NamedGradients gradients;
  for (const auto& worker : workers) add_gradients(*worker, plan, gradients);
  double squares = 0;
  for (const auto& [name, values] : gradients) {
    for (const float value : values) squares += static_cast<double>(value) * static_cast<double>(value);
  }
  for (const StepResult& result : results) {
    EXPECT_NEAR(result.gradient_norm, std::sqrt(squares), 1e-9);
    EXPECT_EQ(result, results[0]);
  }
  plan.optimizer.clip_norm = results[0].gradient_norm / 4;
  auto clipped = make_cpu_workers(plan);
  train(clipped, plan, data, 1, 1);
  double moments = 0;
  for (std::uint32_t s = 0; s < 4; ++s) {  // of the four stages that rank 0 and rank 1 hold
    const StageState state = clipped[s == 0 || s == 3 ? 0 : 1]->state(Stage{s});
    for (const ParameterSpec& parameter : stage_parameters(plan.model, plan.layout.stages[s])) {
      if (parameter.copied) continue;
      for (std::uint64_t i = parameter.offset; i < parameter.offset + parameter.elements(); ++i) {
        const auto moment = static_cast<double>(state.first_moments[i]);
        moments += moment * moment;
      }
    }
  }
  EXPECT_NEAR(std::sqrt(moments), 0.1 * plan.optimizer.clip_norm, 1e-6 * plan.optimizer.clip_norm);
}

TEST(Checkpoint, ResumingIsAsIfNothingHadHappened) {
  const Folder folder;
  for (const char* name : {"zb-h1", "dualpipe"}) {
    fs::remove_all(folder.path());
    const TrainingPlan plan = named(name, 4, 8);
    const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 6);
    auto through = make_cpu_workers(plan);
    const std::vector<double> losses = train(through, plan, data, 1, 6);
    auto first = make_cpu_workers(plan);
    train(first, plan, data, 1, 3);
    run_together(first, [&](Worker& worker) { save_checkpoint(worker, plan, folder.path(), 3); });
    EXPECT_EQ(latest_checkpoint(folder.path()), 3u);
    auto second = make_cpu_workers(plan);
    run_together(second,
                 [&](Worker& worker) { EXPECT_EQ(load_checkpoint(worker, plan, folder.path()), 3u); });
    EXPECT_EQ(train(second, plan, data, 4, 6), std::vector<double>(losses.begin() + 3, losses.end())) << name;
    for (std::size_t w = 0; w < second.size(); ++w) {
      for (const Stage stage : second[w]->program().held) {
        EXPECT_EQ(second[w]->state(stage), through[w]->state(stage)) << name;
      }
    }
  }
}

// Parameters are stored by name, so a run may go on with fewer ranks, and stay within rounding of itself.
TEST(Checkpoint, AnotherPipelineMayGoOn) {
  const Folder folder;
  const TrainingPlan plan = named("1f1b", 4, 8);
  const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 6);
  auto workers = make_cpu_workers(plan);
  train(workers, plan, data, 1, 2);
  run_together(workers, [&](Worker& worker) { save_checkpoint(worker, plan, folder.path(), 2); });
  const TrainingPlan other = named("zb-v", 2, 8);
  auto others = make_cpu_workers(other);
  run_together(others, [&](Worker& worker) { load_checkpoint(worker, other, folder.path()); });
  const double expected = train(workers, plan, data, 3, 3)[0];
  EXPECT_NEAR(train(others, other, data, 3, 3)[0], expected, 1e-6);
}

std::string refusal(std::vector<std::unique_ptr<Worker>>& workers, const TrainingPlan& plan,
                    const std::string& folder) {
  try {
    load_checkpoint(*workers[0], plan, folder);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

TEST(Checkpoint, OneThatIsDamagedIsRefusedByName) {
  const Folder folder;
  const TrainingPlan plan = named("1f1b", 2, 4);
  auto workers = make_cpu_workers(plan);
  EXPECT_NE(refusal(workers, plan, folder.path()).find("no checkpoint"), std::string::npos);
  run_together(workers, [&](Worker& worker) { save_checkpoint(worker, plan, folder.path(), 1); });
  EXPECT_EQ(refusal(workers, plan, folder.path()), "");
  const fs::path file = fs::path(folder.path()) / "step-00000001" / "stage-0000.plumb";
  const auto size = fs::file_size(file);
  const auto flip = [&](std::uint64_t at) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(at));
    const int byte = stream.get();
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(static_cast<char>(byte ^ 0x10));
  };
  for (const std::uint64_t at : {std::uint64_t{20}, std::uint64_t{100}, size / 2, size - 20, size - 1}) {
    flip(at);
    EXPECT_NE(refusal(workers, plan, folder.path()).find("stage-0000.plumb"), std::string::npos) << at;
    flip(at);
  }
  EXPECT_EQ(refusal(workers, plan, folder.path()), "");
  TrainingPlan other = plan;
  other.seed = 99;
  EXPECT_NE(refusal(workers, other, folder.path()).find("seed"), std::string::npos);
  for (const std::uint64_t kept : {size - 1, size / 2, std::uint64_t{30}, std::uint64_t{0}}) {
    fs::resize_file(file, kept);
    EXPECT_NE(refusal(workers, plan, folder.path()).find("stage-0000.plumb"), std::string::npos) << kept;
  }
  fs::remove(file);
  EXPECT_NE(refusal(workers, plan, folder.path()).find("embedding.weight"), std::string::npos);
}

// No file may grow beyond 4 KiB, as on a disk that fills up: the run ends with the reason, the checkpoint
// before stays whole, and nothing is left of the new one.
TEST(Checkpoint, AFullDiskLeavesTheLastOneWhole) {
  const Folder folder;
  const TrainingPlan plan = named("1f1b", 2, 4);
  auto workers = make_cpu_workers(plan);
  run_together(workers, [&](Worker& worker) { save_checkpoint(worker, plan, folder.path(), 1); });
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string why;
  try {
    run_together(workers, [&](Worker& worker) { save_checkpoint(worker, plan, folder.path(), 2); });
  } catch (const BadInput& error) {
    why = error.what();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_NE(why.find("cannot be written: File too large"), std::string::npos) << why;
  EXPECT_EQ(latest_checkpoint(folder.path()), 1u);
  std::size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(folder.path())) entries += !entry.path().empty();
  EXPECT_EQ(entries, 1u);
  auto again = make_cpu_workers(plan);
  EXPECT_EQ(refusal(again, plan, folder.path()), "");
}

TEST(Checkpoint, TheTwoNewestAreKept) {
  const Folder folder;
  const TrainingPlan plan = named("1f1b", 2, 4);
  auto workers = make_cpu_workers(plan);
  run_together(workers, [&](Worker& worker) {
    for (std::uint64_t step = 1; step <= 4; ++step) save_checkpoint(worker, plan, folder.path(), step);
  });
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-00000003", "step-00000004"}));
}

// A checkpoint with two thousand files more than its own takes long enough to remove to be seen: it is whole
// for as long as it has its name, since whoever is killed in the middle of it leaves what is there.
TEST(Checkpoint, AnOldOneLosesItsNameBeforeItLosesAFile) {
  const Folder folder;
  const TrainingPlan plan = named("1f1b", 2, 4);
  auto workers = make_cpu_workers(plan);
  const auto save = [&](std::uint64_t step) {
    run_together(workers, [&](Worker& worker) { save_checkpoint(worker, plan, folder.path(), step); });
  };
  save(1);
  save(2);
  const fs::path oldest = fs::path(folder.path()) / "step-00000001";
  for (int i = 0; i < 2000; ++i) std::ofstream(oldest / ("more-" + std::to_string(i)));
  const auto files = [&] {
    std::size_t count = 0;
    std::error_code gone;
    for (fs::directory_iterator at(oldest, gone); !gone && at != fs::directory_iterator(); at.increment(gone))
      ++count;
    return count;
  };
  const std::size_t whole = files();
  std::atomic<bool> torn{false};
  std::thread watcher([&] {
    while (fs::exists(oldest)) {
      // What lost its name meanwhile may be counted halfway.
      if (files() < whole && fs::exists(oldest)) torn = true;
    }
  });
  save(3);
  watcher.join();
  EXPECT_FALSE(torn);
}

// Every byte a token, wherever the piece comes from; the target is the token behind.
TEST(TrainingData, OfAFileIsPiecesOfIt) {
  const Folder folder;
  fs::create_directories(folder.path());
  const std::string path = folder.path() + "/text";
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i * 7 % 31);
  std::ofstream(path, std::ios::binary) << text;
  const TrainingPlan plan = named("1f1b", 2, 4);
  const TrainingData data = TrainingData::of_file(path, plan.model, plan.layout, 1);
  for (std::uint64_t m = 0; m < 20; ++m) {
    const MicrobatchData microbatch = data.microbatch(1, m);
    ASSERT_EQ(microbatch.tokens.size(), 8u);
    const std::string piece(microbatch.tokens.begin(), microbatch.tokens.end());
    const std::size_t at = text.find(piece);
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(microbatch.next_tokens[7], text[at + 8]);
    EXPECT_EQ(microbatch.next_tokens[0], microbatch.tokens[1]);
  }
  EXPECT_EQ(data.microbatch(1, 3), data.microbatch(1, 3));
  EXPECT_NE(data.microbatch(1, 3), data.microbatch(2, 3));
  std::ofstream(path, std::ios::binary) << std::string(100, 'A');  // 65 is no token of 32
  EXPECT_THROW(TrainingData::of_file(path, plan.model, plan.layout, 1), BadInput);
  std::ofstream(path, std::ios::binary) << std::string(8, '\1');  // no target for the last
  EXPECT_THROW(TrainingData::of_file(path, plan.model, plan.layout, 1), BadInput);
  const std::string wide = folder.path() + "/tokens.bin";
  std::ofstream(wide, std::ios::binary) << std::string("\1\0\2\0\3\0\4\0\5\0\6\0\7\0\10\0\11\0", 18);
  const MicrobatchData whole = TrainingData::of_file(wide, plan.model, plan.layout, 1).microbatch(1, 0);
  EXPECT_EQ(whole.next_tokens, (std::vector<std::int32_t>{2, 3, 4, 5, 6, 7, 8, 9}));
}

}  // namespace
}  // namespace plumb
