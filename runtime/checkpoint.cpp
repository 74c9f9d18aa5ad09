#include "runtime/checkpoint.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace plumb {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view magic = "plumb.checkpoint/1";
constexpr std::string_view part = ".part";

std::string name_of(std::uint64_t step) { return fmt::format("step-{:08}", step); }

std::vector<std::uint64_t> steps_in(const std::string& folder) {
  std::vector<std::uint64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-") || name.ends_with(part)) continue;
    const std::string digits = name.substr(5);
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos || digits.size() > 18)
      continue;
    steps.push_back(std::stoull(digits));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t sum = mixed(bytes.size() + 1);
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, 8);
    sum = mixed(sum ^ word);
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, bytes.data() + i, bytes.size() - i);
  return mixed(sum ^ rest);
}

[[noreturn]] void fail(const fs::path& path, const std::string& what) { throw BadInput(path.string(), what); }

// All or nothing on its way to the disk.
void write_file(const fs::path& path, const std::string& content) {
  const auto refuse = [&] { fail(path, fmt::format("cannot be written: {}", std::strerror(errno))); };
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) refuse();
  std::size_t written = 0;
  while (written < content.size()) {
    const ::ssize_t count = ::write(file, content.data() + written, content.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int why = count == 0 ? ENOSPC : errno;
      ::close(file);
      errno = why;
      refuse();
    }
    written += static_cast<std::size_t>(count);
  }
  const bool flushed = ::fsync(file) == 0;
  const int why = errno;
  if (::close(file) != 0 || !flushed) {
    if (!flushed) errno = why;
    refuse();
  }
}

// So that a rename is on the disk too. A file system that cannot is no reason to fail.
void flush_folder(const fs::path& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);
  ::close(folder);
}

// Under another name first: whoever is killed in the middle of it leaves nothing that is called a checkpoint.
void remove_checkpoint(const fs::path& whole) {
  if (!fs::exists(whole)) return;
  const fs::path doomed = whole.string() + ".old" + std::string(part);
  fs::remove_all(doomed);
  fs::rename(whole, doomed);
  fs::remove_all(doomed);
}

bool writes(const Worker& worker, const TrainingPlan& plan, Stage stage) {
  if (worker.copy() != 0) return false;
  for (std::uint32_t r = 0; r < plan.schedule.ranks(); ++r) {
    for (const Step& step : plan.schedule.per_rank[r].steps) {
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        if (op.stage == stage) return worker.rank() == Rank{r};
      }
    }
  }
  return false;
}

// What another stage owns is in that stage's file.
std::string content_of(const StageState& state, std::vector<ParameterSpec> parameters, std::uint64_t seed,
                       std::uint64_t step) {
  std::erase_if(parameters, [](const ParameterSpec& parameter) { return parameter.copied; });
  std::string content =
      fmt::format("{}\nstep {}\nseed {}\nparameters {}\n", magic, step, seed, parameters.size());
  for (const ParameterSpec& parameter : parameters) {
    content += fmt::format("{} {}\n", parameter.name, parameter.elements());
  }
  const auto append = [&](const std::vector<float>& values, const ParameterSpec& parameter) {
    content.append(reinterpret_cast<const char*>(values.data() + parameter.offset),
                   parameter.elements() * sizeof(float));
  };
  for (const ParameterSpec& parameter : parameters) {
    append(state.weights, parameter);
    append(state.first_moments, parameter);
    append(state.second_moments, parameter);
  }
  const std::uint64_t sum = checksum(content);
  content.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  return content;
}

// One file of a checkpoint: what its header says, and that it is as long as that.
struct StoredStage {
  fs::path path;
  std::uint64_t step = 0;
  std::uint64_t seed = 0;
  struct Place {
    std::uint64_t offset;  // of its weights in the file; the moments follow
    std::uint64_t elements;
  };
  std::map<std::string, Place> parameters;
};

StoredStage read_header(const fs::path& path) {
  StoredStage stored;
  stored.path = path;
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const std::uint64_t size = fs::file_size(path, error);
  if (!file || error) fail(path, fmt::format("cannot be read: {}", std::strerror(errno)));
  std::string begin(magic.size(), '\0');
  file.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  if (begin != magic) fail(path, fmt::format("is no checkpoint: it does not begin with {}", magic));
  std::string word;
  std::uint64_t count = 0;
  file >> word >> stored.step >> word >> stored.seed >> word >> count;
  std::vector<std::pair<std::string, std::uint64_t>> listed(std::min(count, size));
  for (auto& [name, elements] : listed) {
    // Of a header that is no header, not all of its lines.
    if (!(file >> name >> elements)) break;
  }
  file.get();
  if (!file) fail(path, "is no checkpoint: its header ends early");
  auto offset = static_cast<std::uint64_t>(file.tellg());
  for (const auto& [name, elements] : listed) {
    stored.parameters[name] = {offset, elements};
    if (elements > size) fail(path, "is cut short or damaged: it is smaller than a parameter in its header");
    offset += 3 * elements * sizeof(float);
  }
  offset += sizeof(std::uint64_t);  // the checksum
  if (size < offset)
    fail(path, fmt::format("has {} bytes and should have {}: it is cut short", size, offset));
  if (size > offset) fail(path, fmt::format("has {} bytes and is longer than its {}", size, offset));
  return stored;
}

// All of the file, unless its checksum is another's.
std::string read_content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), {}};
  std::uint64_t sum = 0;
  if (!file || content.size() < sizeof sum)
    fail(path, fmt::format("cannot be read: {}", std::strerror(errno)));
  std::memcpy(&sum, content.data() + content.size() - sizeof sum, sizeof sum);
  content.resize(content.size() - sizeof sum);
  if (checksum(content) != sum) fail(path, "is damaged: its checksum does not match");
  return content;
}

std::vector<StoredStage> read_headers(const fs::path& whole, std::uint64_t step, std::uint64_t seed) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(whole, error)) {
    if (entry.path().extension() == ".plumb") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<StoredStage> stored;
  for (const fs::path& file : files) {
    const StoredStage& stage = stored.emplace_back(read_header(file));
    if (stage.step != step) fail(file, fmt::format("is of step {}, not {}", stage.step, step));
    if (stage.seed != seed)
      fail(file, fmt::format("was begun with seed {}; this run has {}", stage.seed, seed));
  }
  return stored;
}

// Which of the files holds the parameter.
const StoredStage& holder_of(const ParameterSpec& parameter, const std::vector<StoredStage>& stored,
                             const fs::path& whole) {
  const auto holder = std::find_if(stored.begin(), stored.end(), [&](const StoredStage& stage) {
    return stage.parameters.contains(parameter.name);
  });
  if (holder == stored.end()) {
    // The name may be a damaged one.
    for (const StoredStage& stage : stored) read_content(stage.path);
    fail(whole, fmt::format("has no {}", parameter.name));
  }
  const std::uint64_t elements = holder->parameters.at(parameter.name).elements;
  if (elements != parameter.elements()) {
    fail(holder->path, fmt::format("has {} of {} elements; the model's has {}", parameter.name, elements,
                                   parameter.elements()));
  }
  return *holder;
}

}  // namespace

std::optional<std::uint64_t> latest_checkpoint(const std::string& folder) {
  const auto steps = steps_in(folder);
  if (steps.empty()) return std::nullopt;
  return steps.back();
}

void prepare_checkpoints(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!fs::is_directory(folder))
    throw BadInput(folder, error ? fmt::format("cannot be made: {}", error.message()) : "is no folder");
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    throw BadInput(folder, fmt::format("cannot be written to: {}", std::strerror(errno)));
  remove_unfinished_checkpoints(folder);
}

void remove_unfinished_checkpoints(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> unfinished;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with("step-") && name.ends_with(part)) unfinished.push_back(entry->path());
  }
  for (const fs::path& path : unfinished) fs::remove_all(path, error);
}

void save_checkpoint(Worker& worker, const TrainingPlan& plan, const std::string& folder,
                     std::uint64_t step) {
  const fs::path whole = fs::path(folder) / name_of(step);
  const fs::path beside = fs::path(folder) / (name_of(step) + std::string(part));
  const bool first = worker.copy() == 0 && worker.rank() == Rank{0};
  std::exception_ptr failure;
  const auto attempt = [&](const auto& act) {
    if (failure) return;
    try {
      act();
    } catch (const fs::filesystem_error& error) {
      failure = std::make_exception_ptr(
          BadInput(error.path1().string(), fmt::format("cannot be written: {}", error.code().message())));
    } catch (...) {
      failure = std::current_exception();
    }
  };
  // Whether all have come so far.
  const auto all_well = [&] {
    double failed = failure ? 1 : 0;
    worker.sum(std::span(&failed, 1));
    return failed == 0;
  };
  if (first) {
    attempt([&] {
      fs::remove_all(beside);
      fs::create_directories(beside);
    });
  }
  bool well = all_well();
  if (well) {
    for (const Stage stage : worker.program().held) {
      if (!writes(worker, plan, stage)) continue;
      attempt([&] {
        const auto parameters = stage_parameters(plan.model, plan.layout.stages[stage.value]);
        write_file(beside / fmt::format("stage-{:04}.plumb", stage.value),
                   content_of(worker.state(stage), parameters, plan.seed, step));
      });
    }
    well = all_well();
  }
  if (first && well) {
    attempt([&] {
      flush_folder(beside);
      remove_checkpoint(whole);
      fs::rename(beside, whole);
      flush_folder(folder);
      const auto steps = steps_in(folder);
      for (std::size_t i = 0; i + 2 < steps.size(); ++i)
        remove_checkpoint(fs::path(folder) / name_of(steps[i]));
    });
  }
  if (first && !well) {
    std::error_code ignored;
    fs::remove_all(beside, ignored);
  }
  all_well();
  if (failure) std::rethrow_exception(failure);
}

std::uint64_t check_checkpoint(const TrainingPlan& plan, const std::string& folder) {
  const auto step = latest_checkpoint(folder);
  if (!step) throw BadInput(folder, "holds no checkpoint to resume from");
  const fs::path whole = fs::path(folder) / name_of(*step);
  const std::vector<StoredStage> stored = read_headers(whole, *step, plan.seed);
  for (const StageContent& stage : plan.layout.stages) {
    for (const ParameterSpec& parameter : stage_parameters(plan.model, stage))
      holder_of(parameter, stored, whole);
  }
  return *step;
}

std::uint64_t load_checkpoint(Worker& worker, const TrainingPlan& plan, const std::string& folder) {
  const std::uint64_t step = check_checkpoint(plan, folder);
  const fs::path whole = fs::path(folder) / name_of(step);
  const std::vector<StoredStage> stored = read_headers(whole, step, plan.seed);
  std::map<fs::path, std::string> contents;  // of the files that hold something of this worker's
  for (const Stage stage : worker.program().held) {
    StageState state = worker.state(stage);
    for (const ParameterSpec& parameter : stage_parameters(plan.model, plan.layout.stages[stage.value])) {
      const StoredStage& holder = holder_of(parameter, stored, whole);
      if (!contents.contains(holder.path)) contents[holder.path] = read_content(holder.path);
      const std::size_t bytes = parameter.elements() * sizeof(float);
      const char* from = contents.at(holder.path).data() + holder.parameters.at(parameter.name).offset;
      std::memcpy(state.weights.data() + parameter.offset, from, bytes);
      std::memcpy(state.first_moments.data() + parameter.offset, from + bytes, bytes);
      std::memcpy(state.second_moments.data() + parameter.offset, from + 2 * bytes, bytes);
    }
    worker.set_state(stage, state);
  }
  return step;
}

}  // namespace plumb
