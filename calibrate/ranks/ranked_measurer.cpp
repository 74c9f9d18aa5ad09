#include "calibrate/ranks/ranked_measurer.hpp"

#include "calibrate/ranks/measurement_message.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace plumb::ranks {
namespace {

// What rank 0 says instead of an order when there will be no more.
constexpr std::string_view enough = "enough";

class RankedMeasurer final : public Measurer {
 public:
  RankedMeasurer(Rendezvous& rendezvous, std::unique_ptr<Measurer> own)
      : rendezvous_(rendezvous), own_(std::move(own)) {}
  ~RankedMeasurer() override {
    if (!leads()) return;
    try {
      rendezvous_.broadcast(enough);
    } catch (const std::exception&) {
      // Ranks that are gone, or know of a failure, wait for nothing.
    }
  }

  bool leads() const override { return rendezvous_.rank() == 0; }
  void serve() override {
    for (std::string order = rendezvous_.broadcast(""); order != enough; order = rendezvous_.broadcast(""))
      take_part(read_order(order));
  }

  Provenance provenance() const override { return own_->provenance(); }
  std::map<std::string, std::string> algorithms() const override { return own_->algorithms(); }
  Setting setting() const override { return own_->setting(); }
  std::vector<std::vector<std::uint32_t>> message_pairs() const override { return own_->message_pairs(); }
  bool can_measure(const Target& target) const override { return own_->can_measure(target); }

  std::vector<Measurement> measure(const Target& target, const StoppingRule& rule) override {
    return measure_in_turns({target}, rule);
  }
  bool in_turns(const Target& a, const Target& b) const override { return own_->in_turns(a, b); }
  std::vector<Measurement> measure_in_turns(const std::vector<Target>& targets,
                                            const StoppingRule& rule) override {
    const Order order{targets, rule};
    rendezvous_.broadcast(to_message(order));
    std::vector<Measurement> all;
    for (const std::string& message : take_part(order)) {
      for (Measurement& one : read_measured(message)) all.push_back(std::move(one));
    }
    for (const Target& target : targets) {
      const auto is_of_it = [&](const Measurement& one) { return target_of(one) == target; };
      if (std::none_of(all.begin(), all.end(), is_of_it))
        throw DeviceError(fmt::format("no rank measured {}", to_string(target)));
    }
    return all;
  }
  // A figure that came to nothing costs no other; where a rank failed there is nobody to go on with.
  bool goes_on_after_failure() const override { return !failed_; }

 private:
  // [rank] on rank 0.
  std::vector<std::string> take_part(const Order& order) {
    std::vector<Measurement> mine;
    try {
      mine = order.targets.size() == 1 ? own_->measure(order.targets.front(), order.rule)
                                       : own_->measure_in_turns(order.targets, order.rule);
    } catch (const std::exception& error) {
      failed_ = true;
      give_up(error.what());
      throw;
    }
    failed_ = true;  // until all have answered
    std::vector<std::string> all = rendezvous_.gather(to_message(mine));
    failed_ = false;
    return all;
  }

  // A rank's death is felt by others in ways that say nothing of it, and a moment before it is known: then
  // its word counts, not theirs.
  void give_up(const char* what) {
    using Clock = std::chrono::steady_clock;
    for (const auto until = Clock::now() + patience; Clock::now() < until;) {
      if (const auto why = rendezvous_.aborted()) throw DeviceError(*why);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    rendezvous_.abort(fmt::format("rank {}: {}", rendezvous_.rank(), what));
  }

  static constexpr std::chrono::milliseconds patience{300};
  Rendezvous& rendezvous_;
  std::unique_ptr<Measurer> own_;
  bool failed_ = false;
};

}  // namespace

std::unique_ptr<Measurer> make_ranked_measurer(Rendezvous& rendezvous, std::unique_ptr<Measurer> own) {
  return std::make_unique<RankedMeasurer>(rendezvous, std::move(own));
}

}  // namespace plumb::ranks
