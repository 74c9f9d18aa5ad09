#include "calibrate/kineto.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

struct Ranked {
  std::uint32_t rank = 0;
  const KinetoTrace* trace = nullptr;
};

std::vector<Ranked> ranked(const std::vector<KinetoTrace>& traces) {
  std::vector<Ranked> out;
  std::map<std::uint32_t, std::string> taken;
  // A profile of a job of one process says rank 0 or nothing; several of these are in the order given.
  const bool named =
      std::all_of(traces.begin(), traces.end(), [](const KinetoTrace& t) { return t.rank.has_value(); });
  for (std::uint32_t k = 0; k < traces.size(); ++k) {
    const std::uint32_t rank = named ? *traces[k].rank : k;
    const auto [before, is_new] = taken.emplace(rank, traces[k].where);
    if (!is_new)
      throw BadInput(traces[k].where, fmt::format("is of rank {}, and so is {}", rank, before->second));
    out.push_back({rank, &traces[k]});
  }
  return out;
}

WorkKind kind_of(const Action& action) {
  if (action.is_pair()) return WorkKind::forward_beside_backward;
  switch (action.first().kind) {
    case OpKind::forward:
      return WorkKind::forward;
    case OpKind::backward_input:
      return WorkKind::backward_input;
    case OpKind::backward_weight:
      return WorkKind::backward_weight;
    default:
      return WorkKind::backward;
  }
}

WorkKey key_of(const Action& action, const std::string& name) {
  WorkKey key{name, "profiled", kind_of(action), {{"stage", action.first().stage.value}}, ""};
  if (action.is_pair()) key.shape["backward_stage"] = action.second().stage.value;
  return key;
}

void add_work(Calibration& calibration, const std::vector<Ranked>& ranks) {
  // [key, rank, class] in the order of a map: the document does not depend on which trace came first.
  std::map<std::tuple<WorkKey, std::uint32_t, std::string>, SampleSet> samples;
  for (const auto& [rank, trace] : ranks) {
    for (const KinetoAction& action : trace->actions) {
      const bool computes = action.compute.ns > 0 || action.communication.empty();
      if (computes) samples[{key_of(action.action, "stage"), rank, "compute"}].add({action.compute, 0});
      for (const auto& [kind, duration] : action.communication) {
        samples[{key_of(action.action, "stage " + kind), rank, kind}].add({duration, 0});
      }
    }
  }
  for (const auto& [key, set] : samples) {
    const auto& [work, rank, work_class] = key;
    calibration.work.push_back({work, {}, rank, work_class, set.summary(), std::nullopt});
  }
}

// Sends and receives of one kind between two ranks, in the order in which they ran.
using Message = std::tuple<OpKind, std::uint32_t, std::uint32_t>;  // kind of the send, stage, microbatch

void add_messages(Calibration& calibration, const std::vector<Ranked>& ranks) {
  struct End {
    std::uint32_t rank = 0;
    Duration duration;
    Bytes bytes;
  };
  std::map<Message, std::vector<End>> sends;
  std::map<Message, std::vector<End>> receives;
  for (const auto& [rank, trace] : ranks) {
    for (const KinetoMessage& message : trace->messages) {
      const Op& op = message.op;
      const bool forward = op.kind == OpKind::send_forward || op.kind == OpKind::recv_forward;
      // A receive is named by the stage that receives; the message by the one that sends.
      const std::uint32_t stage = is_send(op.kind) ? op.stage.value
                                  : forward        ? op.stage.value - 1
                                                   : op.stage.value + 1;
      auto& into = is_send(op.kind) ? sends : receives;
      into[{forward ? OpKind::send_forward : OpKind::send_backward, stage, op.microbatch.value}].push_back(
          {rank, message.duration, message.bytes});
    }
  }
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::int64_t>, SampleSet> transfers;
  for (const auto& [message, from] : sends) {
    const auto to = receives.find(message);
    if (to == receives.end()) continue;
    for (std::size_t k = 0; k < std::min(from.size(), to->second.size()); ++k) {
      const End& send = from[k];
      const End& receive = to->second[k];
      const Bytes bytes = std::max(send.bytes, receive.bytes);
      // Without its size a message says nothing about a link.
      if (bytes.count == 0 || send.rank == receive.rank) continue;
      transfers[{send.rank, receive.rank, bytes.count}].add({std::min(send.duration, receive.duration), 0});
      auto& of_model = std::get<0>(message) == OpKind::send_forward ? calibration.activation_message
                                                                    : calibration.gradient_message;
      of_model = std::max(of_model, bytes);
    }
  }
  for (const auto& [key, set] : transfers) {
    const auto& [from, to, bytes] = key;
    const TransferKey transfer{TransferKind::one_way, "nccl", "", {from, to}, 1, {}};
    add(calibration, {Transfer{transfer, {{bytes}, set.summary()}}, {}});
  }
}

// The mean over the stages of what their ops last, as segments: computation, then what it communicates.
std::vector<Segment> mean_stage(Calibration& calibration, WorkKind kind, std::size_t stages, bool& uniform) {
  std::map<std::string, std::map<std::int64_t, std::vector<std::int64_t>>>
      by_class;  // class -> stage -> medians
  for (const TimedWork& work : calibration.work) {
    if (work.work.kind == kind)
      by_class[work.work_class][work.work.shape.at("stage")].push_back(work.time.median.ns);
  }
  std::vector<Segment> segments;
  for (const auto& [name, of_stages] : by_class) {
    double sum = 0;
    double least = 1e300;
    double most = 0;
    for (const auto& [stage, medians] : of_stages) {
      double mean = 0;
      for (const std::int64_t ns : medians)
        mean += static_cast<double>(ns) / static_cast<double>(medians.size());
      sum += mean;
      least = std::min(least, mean);
      most = std::max(most, mean);
    }
    if (most > 1.05 * least || of_stages.size() < stages) uniform = false;
    auto found = std::find(calibration.classes.begin(), calibration.classes.end(), name);
    if (found == calibration.classes.end())
      found = calibration.classes.insert(calibration.classes.end(), name);
    const WorkClass work_class{static_cast<std::uint32_t>(found - calibration.classes.begin())};
    const bool computes = name == "compute";
    const Segment segment{computes ? Lane::compute : Lane::communication,
                          {std::llround(sum / static_cast<double>(stages))},
                          work_class,
                          computes ? "stage" : name,
                          false};
    segments.insert(computes ? segments.begin() : segments.end(), segment);
  }
  return segments;
}

void add_layer(Calibration& calibration) {
  std::set<std::int64_t> stages;
  for (const TimedWork& work : calibration.work) stages.insert(work.work.shape.at("stage"));
  calibration.model_layers = static_cast<std::uint32_t>(stages.size());
  calibration.classes = {"compute"};
  const auto layer = [&](WorkKind kind) {
    bool uniform = true;
    std::vector<Segment> segments = mean_stage(calibration, kind, stages.size(), uniform);
    if (!segments.empty())
      calibration.sources[std::string(words(kind))] = uniform ? "measured" : "interpolated";
    return segments;
  };
  calibration.forward = layer(WorkKind::forward);
  calibration.backward_input = layer(WorkKind::backward_input);
  calibration.backward_weight = layer(WorkKind::backward_weight);
  calibration.backward = layer(WorkKind::backward);
  if (calibration.backward.empty() && !calibration.backward_input.empty() &&
      !calibration.backward_weight.empty()) {
    calibration.backward = calibration.backward_input;
    calibration.backward.insert(calibration.backward.end(), calibration.backward_weight.begin(),
                                calibration.backward_weight.end());
    calibration.sources["backward"] = "estimated";
  }
}

void add_link(Calibration& calibration) {
  // Every pair's messages of one size together: PyTorch's pipelines send one size, so one point is all there
  // is.
  std::vector<SizedDuration> points;
  for (const TransferSeries& series : calibration.transfers) {
    for (const SizedSummary& point : series.points) points.push_back({point.size, point.time.median});
  }
  if (points.empty()) {
    calibration.sources["link"] = "assumed";
    return;
  }
  calibration.link = link_at(fit_link(points), calibration.activation_message);
  calibration.sources["link"] = "measured";
}

}  // namespace

Calibration calibration_of(const std::vector<KinetoTrace>& traces) {
  if (traces.empty()) throw BadInput("--kineto", "names no trace");
  const std::vector<Ranked> ranks = ranked(traces);
  const KinetoTrace& first = traces.front();
  Calibration calibration;
  calibration.name = "kineto";
  calibration.about = fmt::format(
      "From {} PyTorch profile{}; one layer of this document is one stage: the mean over its stages and all "
      "microbatches",
      traces.size(), traces.size() == 1 ? "" : "s");
  calibration.provenance.gpu = first.gpu;
  calibration.provenance.gpus = static_cast<std::uint32_t>(traces.size());
  calibration.provenance.sms = first.sms;
  calibration.provenance.gpu_memory = first.gpu_memory;
  calibration.provenance.cuda = first.cuda;
  calibration.provenance.driver = first.driver;
  calibration.provenance.nccl_library = first.nccl;
  for (const KinetoTrace& trace : traces) {
    if (!same_gpu_class(trace.gpu, first.gpu)) {
      throw BadInput(trace.where,
                     fmt::format("was recorded on {}, {} on {}", trace.gpu, first.where, first.gpu));
    }
    if (trace.on_gpu != first.on_gpu) {
      throw BadInput(trace.where, fmt::format("holds {} kernels and {} {}", trace.on_gpu ? "GPU" : "no",
                                              first.where, first.on_gpu ? "does" : "none"));
    }
  }
  if (!first.on_gpu) {
    calibration.provenance.notes["device"] =
        "CPU: the profiles hold no kernel, so the labels' own time was taken";
  }
  add_work(calibration, ranks);
  add_messages(calibration, ranks);
  add_layer(calibration);
  add_link(calibration);
  return calibration;
}

}  // namespace plumb
