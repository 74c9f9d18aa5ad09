#include "calibrate/measure/nccl_measurer.hpp"

#include "calibrate/measure/class_bench.hpp"
#include "calibrate/measure/nccl_contention.hpp"
#include "calibrate/measure/nccl_messages.hpp"
#include "calibrate/measure/nccl_neighbours.hpp"
#include "calibrate/measure/nccl_rank.hpp"
#include "calibrate/measure/rank_bench.hpp"
#include "calibrate/provenance.hpp"
#include "calibrate/work.hpp"
#include "runtime/bootstrap/agreement.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/device/communicator.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/model/layer_costs.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

namespace plumb::measure {
namespace {

std::string host_name() {
  std::string name(256, '\0');
  if (gethostname(name.data(), name.size()) != 0) return "";
  return name.substr(0, name.find('\0'));
}

bool is_message(TransferKind kind) {
  return kind == TransferKind::hop || kind == TransferKind::one_way || kind == TransferKind::both_ways ||
         kind == TransferKind::at_once;
}

class NcclMeasurer final : public Measurer {
 public:
  NcclMeasurer(const CalibrationRequest& request, const ProcessPlace& place)
      : request_(request),
        rendezvous_(*place.rendezvous),
        info_(device::device_info()),
        shared_gpu_(place.shares > 1),
        room_(shared_gpu_         ? device::room_in_a_share()
              : request.ranks > 1 ? device::room_on_own_gpu()
                                  : device::room_as_they_come()) {
    if (request.layout.stages.empty()) throw BadInput("calibrate", "the layout has no stages");
    if (shared_gpu_) shares_ = device::partition(place.shares);
    const device::GreenContext* share = shared_gpu_ ? &shares_.at(place.share) : nullptr;
    setting_.share = shared_gpu_ ? Share::process : Share::whole_gpu;
    setting_.sms = share ? compute_multiprocessors(share) : 0;
    setting_.of = std::max(1u, place.shares);
    setting_.others_busy = request.ranks > 1;
    hosts_ = rendezvous_.gather(shared_gpu_ ? "" : host_name());
    find_work();
    make_bench(share);
  }

  ~NcclMeasurer() override {
    if (rank_) rank_->keep_busy(false);  // it sends to neighbours
  }

  Provenance provenance() const override {
    Provenance p = provenance_of(info_, sampler_.clock());
    p.gpus = shared_gpu_ ? (request_.ranks + setting_.of - 1) / setting_.of : request_.ranks;
    return p;
  }
  std::map<std::string, std::string> algorithms() const override {
    std::map<std::string, std::string> all = algorithms_.to_text();
    all.insert(chosen_.begin(), chosen_.end());  // products that only others compute
    return all;
  }
  Setting setting() const override { return setting_; }

  // Ranks of one GPU, or of one machine, are alike; one pair stands for each sort of neighbour that there is.
  std::vector<std::vector<std::uint32_t>> message_pairs() const override {
    std::vector<std::vector<std::uint32_t>> pairs;
    if (request_.ranks < 2) return pairs;
    for (const bool same_machine : {true, false}) {
      for (std::uint32_t r = 0; r + 1 < request_.ranks; ++r) {
        if ((hosts_[r] == hosts_[r + 1]) != same_machine) continue;
        pairs.push_back({r, r + 1});
        break;
      }
    }
    return pairs;
  }

  bool can_measure(const Target& target) const override {
    if (const auto* work = std::get_if<WorkTarget>(&target)) {
      // A rank with a GPU of its own does not feel that others are idle.
      if (work->setting.idle_others > 0 && !shared_gpu_) return false;
      WorkKey key = work->work;
      if (bench_->has(key)) return true;
      key.kind = WorkKind::forward;
      key.shape.erase("recompute");
      return stages_.contains(key) || in_a_stage_.contains(work->work);
    }
    if (const auto* memory = std::get_if<MemoryTarget>(&target))
      return bench_->has_memory(memory->work) || stages_.contains(memory->work);
    if (const auto* transfer = std::get_if<TransferTarget>(&target)) {
      const TransferKey& key = transfer->key;
      if (key.ranks.size() < 2) return false;
      if (key.kind == TransferKind::all_reduce) return transfer->size <= rank_->sent.bytes();
      // What is gathered lies where several messages do.
      const Bytes room = is_message(key.kind) ? rank_->largest : rank_->received.bytes();
      return transfer->size <= room && key.at_once <= most_nccl_messages;
    }
    return request_.ranks > 1 && contention_->can_time(std::get<SlowdownTarget>(target).key);
  }

  std::vector<Measurement> measure(const Target& target, const StoppingRule& rule) override {
    return std::visit([&](const auto& one) { return measure_one(one, rule); }, target);
  }

  bool in_turns(const Target& a, const Target& b) const override { return have_one_company(a, b); }
  std::vector<Measurement> measure_in_turns(const std::vector<Target>& targets,
                                            const StoppingRule& rule) override {
    return measure_work(work_of(targets), rule);
  }

 private:
  // As many as the runtime computes on.
  std::uint32_t compute_multiprocessors(const device::GreenContext* share) const {
    return (share ? share->multiprocessors() : info_.multiprocessors) - room_.left_free;
  }

  Bytes largest_gradients() const {
    Bytes largest;
    for (std::uint32_t s = 0; s < request_.layout.stages.size(); ++s)
      largest = std::max(largest, stage_bytes(request_.model, request_.layout, Stage{s}).gradients);
    return std::min(largest, largest_sum);
  }

  // What every rank knows of all ranks: which sorts of stages there are, who has them, and their parts.
  void find_work() {
    const ModelShape& model = request_.model;
    for (const CutStage& one : stages_of(request_)) {
      const auto& [cut, stage] = one;
      const WorkKey key = stage_work(model, *cut, stage, WorkKind::forward);
      const std::uint32_t rank = stage.value % request_.ranks;
      const bool first_of_sort = stages_.emplace(key, rank).second;
      // Where each rank has a GPU of its own, GPUs may differ, and every sort is measured on each.
      if (first_of_sort && (!shared_gpu_ || rank == rendezvous_.rank())) own_stages_.push_back(one);
      for (const PartGroup& group : stage_groups(model, *cut, stage)) {
        for (const Part& part : group.parts) {
          for (const WorkKind kind : {WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight})
            (group.name == "layer" ? in_a_layer_ : in_a_stage_).insert(part_work(part, model, *cut, kind));
        }
      }
    }
  }

  // Rank 0 is first, alone and undisturbed, for it chooses how products are computed. The others choose what
  // is left, and all then know what all have chosen.
  void make_bench(const device::GreenContext* share) {
    std::map<std::string, std::string> chosen = request_.algorithms;
    const std::uint32_t own = rendezvous_.rank();
    for (std::uint32_t turn = 0; turn < 2; ++turn) {
      if ((own == 0) == (turn == 0)) {
        algorithms_ = layers::ProductAlgorithms::from_text(chosen);
        bench_ = std::make_unique<RankBench>(request_, own_stages_, share, compute_multiprocessors(share),
                                             algorithms_);
        filler_.emplace(request_.model, request_.layout, algorithms_, bench_->streams().main_lane);
        if (own == 0) classes_.emplace(request_, algorithms_, bench_->streams());
        device::synchronize();
      }
      chosen = agree(rendezvous_, bench_ ? algorithms_.to_text() : chosen);
    }
    const Bytes message =
        std::max(stage_bytes(request_.model, request_.layout, Stage{0}).activation_message, Bytes{1 << 10});
    rank_.emplace(rendezvous_, *bench_, sampler_, share, room_, message, largest_gradients());
    messages_.emplace(*rank_, *filler_);
    neighbours_.emplace(
        rendezvous_, rank_->links, bench_->streams().main,
        NeighbourMessages::Messages{
            message, rank_->to_send(), {rank_->to_receive(0), rank_->to_receive(1)}, room_.channels});
    bench_->send_by([this] { neighbours_->send_behind_op(); });
    contention_.emplace(*rank_, classes_ ? &*classes_ : nullptr, message, request_.model.experts.has_value());
    chosen_ = chosen;
    rendezvous_.barrier();
  }

  // Whoever has some of it measures what it has in turns, all ranks at the same time, and messages come and
  // go meanwhile; the others, and those that are ready before the last one, compute a layer; some may have to
  // be idle. Where all have a thing they are told apart.
  std::vector<Measurement> measure_work(const std::vector<WorkTarget>& targets, const StoppingRule& rule) {
    const Setting& setting = targets.front().setting;
    const Company company = company_of(targets.front().work.kind);
    const bool idle = rendezvous_.rank() + setting.idle_others >= request_.ranks;
    std::vector<WorkTarget> own;
    for (const WorkTarget& target : targets) {
      if (!idle && bench_->has(target.work)) own.push_back(target);
    }
    const bool others_busy = !idle && setting.others_busy;
    rank_->keep_busy(own.empty() && others_busy, company);
    if (setting.idle_others != idle_others_ || company != company_) sampler_.load().changes();
    idle_others_ = setting.idle_others;
    company_ = company;
    bool ended = false;
    const auto end = [&] {
      rank_->keep_busy(others_busy, company);
      neighbours_->end();
      ended = true;
    };
    std::vector<Measurement> measured;
    if (own.empty()) {
      neighbours_->begin();
    } else {
      measured = bench_->time_in_turns(own, rule, sampler_.load(), {[this] { neighbours_->begin(); }, end});
    }
    if (!ended) end();
    sampler_.load().was_until_now();
    for (Measurement& one : measured) {
      auto& work = std::get<TimedWork>(one.figures);
      if (request_.ranks > 1 && (!shared_gpu_ || everybody_has(work.work))) work.rank = rendezvous_.rank();
    }
    return measured;
  }

  std::vector<Measurement> measure_one(const WorkTarget& target, const StoppingRule& rule) {
    return measure_work({target}, rule);
  }

  // On a shared GPU: a layer, and what is in it.
  bool everybody_has(const WorkKey& work) const { return work.name == "layer" || in_a_layer_.contains(work); }

  std::vector<Measurement> measure_one(const TransferTarget& target, const StoppingRule& rule) {
    const TransferKind kind = target.key.kind;
    const bool message = kind == TransferKind::hop || kind == TransferKind::one_way ||
                         kind == TransferKind::both_ways || kind == TransferKind::at_once;
    const SampleSet set =
        message ? messages_->time(target, rule) : contention_->time_collective(target, rule);
    if (rendezvous_.rank() != 0) return {};
    return {{Transfer{target.key, {target.size, set.summary()}}, set.samples()}};
  }

  std::vector<Measurement> measure_one(const SlowdownTarget& target, const StoppingRule& rule) {
    std::vector<Measurement> measured;
    if (auto one = contention_->time(target, rule)) measured.push_back(std::move(*one));
    return measured;
  }

  // Bytes are the same on every rank: the first that has them says them.
  std::vector<Measurement> measure_one(const MemoryTarget& target, const StoppingRule& /*not timed*/) {
    const auto owner = stages_.find(target.work);
    const std::uint32_t rank = owner == stages_.end() || !shared_gpu_ ? 0 : owner->second;
    if (rendezvous_.rank() != rank) return {};
    return {bench_->memory_of(target)};
  }

  CalibrationRequest request_;
  Rendezvous& rendezvous_;
  device::DeviceInfo info_;
  bool shared_gpu_;
  device::MessageRoom room_;
  std::vector<device::GreenContext> shares_;
  Setting setting_;
  std::vector<std::string> hosts_;  // [rank] on rank 0; empty names where one GPU is all there is
  std::map<WorkKey, std::uint32_t>
      stages_;  // each sort, by its forward, and the rank that measures it where a GPU is shared
  std::set<WorkKey> in_a_layer_, in_a_stage_;  // parts
  std::vector<CutStage> own_stages_;
  std::uint32_t idle_others_ = 0;  // of the work measured last
  Company company_ = Company::forwards_and_backwards;
  layers::ProductAlgorithms algorithms_;
  std::map<std::string, std::string> chosen_;
  std::unique_ptr<RankBench> bench_;
  std::optional<ClassWork> filler_;
  std::optional<ClassBench> classes_;  // of rank 0
  std::optional<NcclRank> rank_;
  std::optional<NeighbourMessages> neighbours_;
  std::optional<NcclMessages> messages_;
  std::optional<NcclContention> contention_;
  Sampler sampler_;
};

}  // namespace

std::unique_ptr<Measurer> make_nccl_measurer(const CalibrationRequest& request, const ProcessPlace& place) {
  return std::make_unique<NcclMeasurer>(request, place);
}

}  // namespace plumb::measure
