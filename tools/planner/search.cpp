#include "tools/planner/search.hpp"

#include "schedules/ir/error.hpp"
#include "tools/planner/bounds.hpp"
#include "tools/planner/outline.hpp"
#include "tools/planner/parallel.hpp"
#include "tools/planner/plan.hpp"
#include "tools/planner/predict.hpp"
#include "tools/planner/refusals.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include <fmt/format.h>

namespace plumb {
namespace {

// Small enough that a round rarely simulates what the round before it has made hopeless, large enough that
// many cores have something to do.
constexpr std::size_t round_size = 64;
// Plans on the front that take longer than this many times the fastest are of no use to anybody.
constexpr double slowest_on_front = 1.5;

// One way to spread the model but for the pipeline's order.
struct Cut {
  Parallelism parallelism;
  std::uint64_t micro_batch_size = 1;
  Recompute recompute = Recompute::none;
  std::uint32_t microbatches = 1;
};

struct Candidate {
  std::uint32_t cut = 0;
  std::uint32_t schedule = 0;  // index into the schedules swept
  Shape shape;
  std::vector<std::uint16_t> counts;  // pieces of each stage
  Duration least_time;
  Bytes least_memory;
};

std::vector<std::uint32_t> divisors(std::uint32_t n) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t d = 1; d <= n; ++d) {
    if (n % d == 0) out.push_back(d);
  }
  return out;
}

template <class T>
bool asked_for(const std::vector<T>& only, T value) {
  return only.empty() || std::find(only.begin(), only.end(), value) != only.end();
}

class Search {
 public:
  Search(const SearchRequest& request, const CostsForLayout& costs,
         const std::function<void(const SearchProgress&)>& report_progress, const std::atomic<bool>* stop)
      : request_(request), costs_(costs), report_progress_(report_progress), stop_(stop) {
    pieces_ = pieces_of(request.model);
    schedules_ = request.schedules;
    if (schedules_.empty()) schedules_.assign(generators().begin(), generators().end());
  }

  SearchResult run() {
    list_cuts();
    bound();
    std::stable_sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return std::tie(a.least_time, a.least_memory) < std::tie(b.least_time, b.least_memory);
    });
    simulate_best_first();
    return finish();
  }

 private:
  bool stopped() const { return stop_ != nullptr && stop_->load(std::memory_order_relaxed); }

  std::vector<std::uint32_t> chunk_choices(const Generator& generator, std::uint32_t pipeline) const {
    if (!generator.takes_chunks) return {generator.default_chunks};
    std::vector<std::uint32_t> out = request_.chunks;
    if (out.empty()) out = {2, 3, 4, 5, 6, 8, 10};
    std::erase_if(out, [&](std::uint32_t v) { return std::uint64_t{v} * pipeline > request_.model.layers; });
    return out;
  }

  // On one rank all schedules are one, and 1F1B holds the least.
  bool worth_a_look(const Generator& generator, std::uint32_t pipeline) const {
    if (pipeline > 1 || generator.name == "1f1b") return true;
    const bool has_1f1b = std::any_of(schedules_.begin(), schedules_.end(),
                                      [](const Generator* g) { return g->name == "1f1b"; });
    return !has_1f1b && generator.default_chunks == 1 && generator.copies == 1;
  }

  Layout layout_of(const Cut& cut, std::vector<StageContent> stages) const {
    Layout layout;
    layout.parallelism = cut.parallelism;
    layout.numerics = request_.numerics;
    layout.micro_batch_size = cut.micro_batch_size;
    layout.sequence = request_.sequence;
    for (StageContent& stage : stages) stage.recompute = cut.recompute;
    layout.stages = std::move(stages);
    return layout;
  }

  void list_cuts() {
    const ModelShape& model = request_.model;
    std::vector<Recompute> recompute = request_.recompute;
    if (recompute.empty()) {
      recompute = {Recompute::none, Recompute::full};
      // Elsewhere there is nothing that selective recompute would save.
      if (!request_.numerics.fused_attention || model.experts || model.attention.latent) {
        recompute.insert(recompute.begin() + 1, Recompute::selective);
      }
    }
    std::vector<std::uint32_t> micro = request_.micro_batch_sizes;
    if (micro.empty()) micro = {1, 2, 4};
    bool any_batch = false;
    for (const std::uint32_t p : divisors(request_.devices)) {
      if (!asked_for(request_.pipeline, p)) continue;
      if (p > model.layers) {
        refusals_.add(Refusals::all,
                      fmt::format("a pipeline of more ranks than the model's {} layers", model.layers));
        continue;
      }
      for (const std::uint32_t t : divisors(request_.devices / p)) {
        if (!asked_for(request_.tensor, t)) continue;
        if (t > request_.devices_per_node && request_.tensor.empty()) continue;
        const std::uint32_t d = request_.devices / p / t;
        for (const std::uint32_t e : divisors(d * t)) {
          if (!asked_for(request_.expert, e)) continue;
          if (e > 1 && (!model.experts || model.experts->routed % e != 0)) continue;
          for (const std::uint32_t b : micro) {
            const std::uint64_t share = std::uint64_t{d} * b;
            if (request_.global_batch % share != 0) {
              refusals_.add(Refusals::all,
                            fmt::format("the global batch of {} is no multiple of dp x micro batch size",
                                        request_.global_batch));
              continue;
            }
            any_batch = true;
            for (const Recompute r : recompute) {
              Cut cut;
              cut.parallelism = {p, t, d, e, request_.sequence_parallel && t > 1, request_.shard_optimizer};
              cut.micro_batch_size = b;
              cut.recompute = r;
              cut.microbatches = static_cast<std::uint32_t>(
                  std::min<std::uint64_t>(request_.global_batch / share, std::uint32_t(-1)));
              try {
                check_layout(model, layout_of(cut, even_stages(model, p)));
              } catch (const BadInput& refused) {
                refusals_.add(Refusals::all, refused.what());
                continue;
              }
              cuts_.push_back(cut);
            }
          }
        }
      }
    }
    if (!cuts_.empty()) return;
    if (!any_batch && !refusals_.list(schedules_, {}).empty()) {
      throw BadInput(
          fmt::format("{} devices and a global batch of {}", request_.devices, request_.global_batch),
          "fit no layout: " + refusals_.list(schedules_, {}).front().reason);
    }
    const std::vector<Refusal> why = refusals_.list(schedules_, {});
    throw BadInput(fmt::format("{} devices", request_.devices),
                   why.empty() ? "no pp x tp x dp with the sizes asked for makes that many"
                               : "fit no layout: " + why.front().reason);
  }

  void bound() {
    struct Found {
      std::vector<Candidate> candidates;
      Refusals refusals;
      std::size_t looked_at = 0;
      std::optional<Candidate> nearest;
    };
    std::vector<Found> found(cuts_.size());
    // In slices, so that progress comes from this thread.
    constexpr std::size_t slice = 64;
    for (std::size_t begin = 0; begin < cuts_.size() && !stopped(); begin += slice) {
      const std::size_t end = std::min(cuts_.size(), begin + slice);
      for_each_in_parallel(
          end - begin,
          [&](std::size_t i) {
            Found& mine = found[begin + i];
            if (!stopped())
              bound_cut(begin + i, mine.candidates, mine.refusals, mine.looked_at, mine.nearest);
          },
          request_.threads);
      if (report_progress_) report_progress_({true, end, cuts_.size(), nullptr});
    }
    for (Found& mine : found) {
      candidates_.insert(candidates_.end(), mine.candidates.begin(), mine.candidates.end());
      refusals_.merge(mine.refusals);
      looked_at_ += mine.looked_at;
      if (mine.nearest && (!nearest_ || mine.nearest->least_memory < nearest_->least_memory)) {
        nearest_ = mine.nearest;
      }
    }
  }

  void bound_cut(std::size_t index, std::vector<Candidate>& candidates, Refusals& refusals,
                 std::size_t& looked_at, std::optional<Candidate>& nearest) {
    const Cut& cut = cuts_[index];
    const std::uint32_t p = cut.parallelism.pipeline;
    std::optional<PieceSums> sums;
    try {
      sums.emplace(sums_of(cut));
    } catch (const BadInput& refused) {
      refusals.add(Refusals::all, refused.what());
      return;
    }
    // Schedules that place their stages alike share them.
    std::map<std::vector<std::vector<Outline::Held>>, std::vector<std::vector<std::size_t>>> known;
    for (std::size_t k = 0; k < schedules_.size(); ++k) {
      const Generator& generator = *schedules_[k];
      if (!worth_a_look(generator, p)) continue;
      for (const std::uint32_t chunks : chunk_choices(generator, p)) {
        if (std::uint64_t{p} * chunks > request_.model.layers) continue;
        ++looked_at;
        Candidate candidate;
        candidate.cut = static_cast<std::uint32_t>(index);
        candidate.schedule = static_cast<std::uint32_t>(k);
        try {
          candidate.shape = nearest_legal_shape(
              generator, {p, cut.microbatches, generator.takes_chunks ? std::optional(chunks) : std::nullopt,
                          std::nullopt});
        } catch (const BadInput&) {
          // One reason a schedule, whatever the numbers of the shape.
          refusals.add(k, fmt::format("shapes that it does not take: {}", generator.limits));
          continue;
        }
        const Outline& outline = outlines_.of(generator, candidate.shape);
        if (outline.has_pairs && cut.parallelism.expert == 1 && request_.schedules.empty()) {
          refusals.add(
              k,
              "runs a forward beside a backward, which frameworks do to hide experts' messages, and there "
              "are none; --schedules tries it all the same");
          continue;
        }
        auto& counts = known[outline.ranks];
        if (counts.empty()) counts = counts_for(p * chunks, outline, *sums);
        std::optional<Candidate> closest;
        for (const std::vector<std::size_t>& variant : counts) {
          bound_stages(variant, outline, *sums, candidate);
          candidate.counts.assign(variant.begin(), variant.end());
          if (candidate.least_memory <= request_.memory) candidates.push_back(candidate);
          if (!closest || candidate.least_memory < closest->least_memory) closest = candidate;
        }
        if (closest->least_memory <= request_.memory) continue;
        refusals.add_memory(k, closest->least_memory,
                            to_text(layout_of(cut, {StageContent{}}), closest->shape));
        if (!nearest || closest->least_memory < nearest->least_memory) nearest = closest;
      }
    }
  }

  PieceSums sums_of(const Cut& cut) const {
    std::vector<PieceSums::JoinedTail> joined;
    const ModelShape& model = request_.model;
    if (cut.parallelism.pipeline == 1 && (model.tied_embeddings || model.multi_token_layers > 0)) {
      joined.push_back(
          {0, costs_(layout_of(cut, stages_of_pieces(pieces_, {pieces_.size()}))).stages.back()});
    }
    if (model.multi_token_layers > 0) {
      const std::size_t before = pieces_.size() - 1 - static_cast<std::size_t>(model.multi_token_layers);
      const std::vector<std::size_t> counts{before, pieces_.size() - before};
      joined.push_back({before, costs_(layout_of(cut, stages_of_pieces(pieces_, counts))).stages.back()});
    }
    return PieceSums(costs_(layout_of(cut, pieces_)), std::move(joined));
  }

  // Ways of cutting the pieces into stages, no two alike: as many layers each, ranks as equal as can be,
  // stages as equal as can be.
  std::vector<std::vector<std::size_t>> counts_for(std::uint32_t stages, const Outline& outline,
                                                   const PieceSums& sums) const {
    std::vector<std::vector<std::size_t>> out{piece_counts(even_stages(request_.model, stages))};
    for (const Balance balance : {Balance::ranks, Balance::stages}) {
      std::vector<std::size_t> counts = balanced_counts(out.front(), outline, sums, balance);
      if (std::find(out.begin(), out.end(), counts) == out.end()) out.push_back(std::move(counts));
    }
    return out;
  }

  void bound_stages(const std::vector<std::size_t>& counts, const Outline& outline, const PieceSums& sums,
                    Candidate& candidate) const {
    const bool reduced = cuts_[candidate.cut].parallelism.data > 1;
    CostModel cost;
    cost.reserve = sums.reserve();
    std::vector<StageLeast> least;
    std::size_t first = 0;
    for (const std::size_t count : counts) {
      cost.stages.push_back(sums.memory(first, first + count));
      least.push_back(sums.times(first, first + count));
      first += count;
    }
    candidate.least_memory = least_peak(outline, cost, request_.memory);
    if (candidate.least_memory > request_.memory) return;
    candidate.least_time = least_step_time(outline, candidate.shape.microbatches, least, cost, reduced);
  }

  Layout layout_for(const Candidate& candidate) const {
    const std::vector<std::size_t> counts(candidate.counts.begin(), candidate.counts.end());
    return layout_of(cuts_[candidate.cut], stages_of_pieces(pieces_, counts));
  }

  struct Simulated {
    std::size_t candidate = 0;
    LayoutPlan plan;
  };

  // Whether nothing that is to be shown could come of it.
  bool hopeless(Duration least_time, Bytes least_memory, std::size_t schedule) const {
    if (times_.size() < request_.best || least_time <= times_[request_.best - 1]) return false;
    const auto first = best_of_schedule_.find(schedule);
    if (first == best_of_schedule_.end() || least_time <= first->second) return false;
    if (static_cast<double>(least_time.ns) > slowest_on_front * static_cast<double>(times_.front().ns))
      return true;
    return std::any_of(front_.begin(), front_.end(), [&](const std::pair<Duration, Bytes>& point) {
      return point.first <= least_time && point.second <= least_memory;
    });
  }

  struct Outcome {
    std::optional<LayoutPlan> plan;
    std::optional<Bytes> too_much;
    std::string refused;
    bool simulated = false;
  };

  void simulate_best_first() {
    std::vector<std::size_t> batch;
    for (std::size_t next = 0; next < candidates_.size() && !stopped();) {
      batch.clear();
      for (; next < candidates_.size() && batch.size() < round_size; ++next) {
        const Candidate& one = candidates_[next];
        if (!hopeless(one.least_time, one.least_memory, one.schedule)) batch.push_back(next);
      }
      std::vector<Outcome> outcomes(batch.size());
      for_each_in_parallel(
          batch.size(), [&](std::size_t i) { outcomes[i] = simulate(candidates_[batch[i]]); },
          request_.threads);
      for (std::size_t i = 0; i < batch.size(); ++i) take(batch[i], std::move(outcomes[i]));
      if (report_progress_) {
        report_progress_({false, next, candidates_.size(), plans_.empty() ? nullptr : &plans_[best_].plan});
      }
    }
  }

  // Whole, unless the stages' own costs show that nothing could come of it.
  Outcome simulate(const Candidate& one) {
    Outcome out;
    if (stopped()) return out;
    try {
      LayoutPlan plan;
      plan.generator = schedules_[one.schedule];
      plan.shape = one.shape;
      plan.layout = layout_for(one);
      const CostModel cost = costs_(plan.layout);
      if (hopeless(least_time_of(one, cost), one.least_memory, one.schedule)) return out;
      const LoweredSchedule schedule =
          make_lowered(*plan.generator, plan.shape, {request_.placement, cuts_[one.cut].parallelism.data});
      plan.report = predict(schedule, cost, request_.execution, Detail::actions).report;
      for (const RankReport& rank : plan.report.ranks)
        plan.peak = std::max(plan.peak, rank.peak_bytes.value_or(Bytes{}));
      out.simulated = true;
      if (plan.peak > request_.memory) {
        out.too_much = plan.peak;
      } else {
        out.plan = std::move(plan);
      }
    } catch (const BadInput& refused) {
      out.refused = refused.what();
    }
    return out;
  }

  void take(std::size_t candidate, Outcome outcome) {
    const Candidate& one = candidates_[candidate];
    simulated_ += outcome.simulated;
    if (!outcome.refused.empty()) refusals_.add(one.schedule, outcome.refused);
    if (outcome.too_much) {
      refusals_.add_memory(one.schedule, *outcome.too_much,
                           to_text(layout_of(cuts_[one.cut], {StageContent{}}), one.shape));
      if (!nearest_ || *outcome.too_much < nearest_->least_memory) {
        nearest_ = one;
        nearest_->least_memory = *outcome.too_much;
      }
    }
    if (outcome.plan) keep({candidate, std::move(*outcome.plan)});
  }

  Duration least_time_of(const Candidate& one, const CostModel& cost) {
    std::vector<StageLeast> least;
    for (const StageCost& stage : cost.stages) {
      least.push_back({least_time(stage.forward), least_time(stage.backward_input),
                       least_time(stage.backward_weight), least_time(stage.backward)});
    }
    return least_step_time(outlines_.of(*schedules_[one.schedule], one.shape), one.shape.microbatches, least,
                           cost, cuts_[one.cut].parallelism.data > 1);
  }

  static bool before(const Simulated& a, const Simulated& b) {
    return std::tuple(a.plan.step_time(), a.plan.peak, a.candidate) <
           std::tuple(b.plan.step_time(), b.plan.peak, b.candidate);
  }

  // Plans that differ in nothing but chunks and stages are of one kind, and its fastest stands for all.
  std::pair<std::size_t, std::size_t> kind_of(const Simulated& one) const {
    const Candidate& candidate = candidates_[one.candidate];
    return {candidate.cut, candidate.schedule};
  }

  void keep(Simulated one) {
    const Duration time = one.plan.step_time();
    const std::size_t schedule = candidates_[one.candidate].schedule;
    const auto [alike, first_of_kind] = best_of_kind_.try_emplace(kind_of(one), time);
    if (first_of_kind || time < alike->second) {
      if (!first_of_kind) times_.erase(std::lower_bound(times_.begin(), times_.end(), alike->second));
      alike->second = time;
      times_.insert(std::upper_bound(times_.begin(), times_.end(), time), time);
    }
    const auto [entry, is_new] = best_of_schedule_.try_emplace(schedule, time);
    if (!is_new) entry->second = std::min(entry->second, time);
    const Bytes peak = one.plan.peak;
    if (std::none_of(front_.begin(), front_.end(),
                     [&](const auto& point) { return point.first <= time && point.second <= peak; })) {
      std::erase_if(front_, [&](const auto& point) { return time <= point.first && peak <= point.second; });
      front_.emplace_back(time, peak);
    }
    plans_.push_back(std::move(one));
    if (before(plans_.back(), plans_[best_])) best_ = plans_.size() - 1;
  }

  SearchResult finish() {
    SearchResult result;
    std::sort(plans_.begin(), plans_.end(), before);
    std::set<std::size_t> schedules_seen;
    std::set<std::pair<std::size_t, std::size_t>> kinds_seen;
    Bytes least_so_far{std::int64_t{1} << 62};
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      LayoutPlan& plan = plans_[i].plan;
      const bool first_of_schedule = schedules_seen.insert(candidates_[plans_[i].candidate].schedule).second;
      const bool on_front =
          plan.peak < least_so_far && static_cast<double>(plan.step_time().ns) <=
                                          slowest_on_front * static_cast<double>(times_.front().ns);
      least_so_far = std::min(least_so_far, plan.peak);
      if (on_front) result.front.push_back(result.plans.size());
      const bool first_of_kind = kinds_seen.insert(kind_of(plans_[i])).second;
      const bool among_best = first_of_kind && kinds_seen.size() <= request_.best;
      if (among_best) result.best.push_back(result.plans.size());
      if (among_best || first_of_schedule || on_front) result.plans.push_back(std::move(plan));
    }
    result.refused = refusals_.list(schedules_, request_.memory);
    if (result.plans.empty() && nearest_) {
      Nearest nearest;
      nearest.generator = schedules_[nearest_->schedule];
      nearest.shape = nearest_->shape;
      nearest.layout = layout_of(
          cuts_[nearest_->cut], even_stages(request_.model, nearest_->shape.ranks * *nearest_->shape.chunks));
      nearest.peak = nearest_->least_memory;
      result.nearest = nearest;
    }
    result.candidates = looked_at_;
    result.simulated = simulated_;
    result.interrupted = stopped();
    return result;
  }

  const SearchRequest& request_;
  const CostsForLayout& costs_;
  const std::function<void(const SearchProgress&)>& report_progress_;
  const std::atomic<bool>* stop_;
  std::vector<const Generator*> schedules_;
  std::vector<StageContent> pieces_;
  Outlines outlines_;
  Refusals refusals_;
  std::vector<Cut> cuts_;
  std::vector<Candidate> candidates_;
  std::optional<Candidate> nearest_;
  std::size_t looked_at_ = 0;
  std::size_t simulated_ = 0;
  std::vector<Simulated> plans_;
  std::size_t best_ = 0;  // into plans_
  std::map<std::pair<std::size_t, std::size_t>, Duration> best_of_kind_;
  std::vector<Duration> times_;  // of the fastest of each kind, ascending
  std::map<std::size_t, Duration> best_of_schedule_;
  std::vector<std::pair<Duration, Bytes>> front_;
};

}  // namespace

SearchResult search(const SearchRequest& request, const CostsForLayout& costs,
                    const std::function<void(const SearchProgress&)>& report_progress,
                    const std::atomic<bool>* stop) {
  return Search(request, costs, report_progress, stop).run();
}

std::string_view to_string(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
      return "none";
    case Recompute::selective:
      return "selective";
    case Recompute::full:
      return "full";
  }
  return "none";
}

std::string to_text(const Layout& layout, const Shape& shape) {
  const Parallelism& p = layout.parallelism;
  std::string out = fmt::format("pp {} tp {} dp {}", p.pipeline, p.tensor, p.data);
  if (p.expert > 1) out += fmt::format(" ep {}", p.expert);
  if (shape.chunks.value_or(1) > 1) out += fmt::format(", {} chunks", *shape.chunks);
  out += fmt::format(", micro batch {}", layout.micro_batch_size);
  const Recompute recompute = layout.stages.empty() ? Recompute::none : layout.stages.front().recompute;
  if (recompute != Recompute::none) out += fmt::format(", recompute {}", to_string(recompute));
  return out;
}

}  // namespace plumb
