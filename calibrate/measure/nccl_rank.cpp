#include "calibrate/measure/nccl_rank.hpp"

#include <algorithm>

namespace plumb::measure {
namespace {
constexpr std::chrono::seconds deadline{30};
}  // namespace

NcclRank::NcclRank(Rendezvous& meeting, RankBench& place, Sampler& timer, const device::GreenContext* share,
                   const device::MessageRoom& given, Bytes message, Bytes gradients)
    : rendezvous(meeting),
      bench(place),
      sampler(timer),
      room(given),
      largest(std::max(Bytes{32 << 20}, message)),
      links(meeting, share, deadline),
      sent(std::max(largest * most_nccl_messages, gradients)),
      received(largest * most_nccl_messages) {
  // Sums of what is not a number are not slower, but nobody wants to explain them.
  for (const device::Buffer* buffer : {&sent, &received})
    device::fill(place.streams().main, buffer->data(), 0, static_cast<std::size_t>(buffer->bytes().count));
  place.streams().main.synchronize();
}

void NcclRank::keep_busy(bool busy, Company company) {
  if (busy == busy_.has_value() && (!busy || company == company_)) return;
  busy_.reset();
  company_ = company;
  if (busy) busy_.emplace(bench.busy(company));
}

SampleSet NcclRank::sample(const ranks::Joint& joint, WarmUp warm_up, StoppingRule rule, ranks::Pace pace) {
  const bool under_load = warm_up == WarmUp::until_the_clock_settles;
  if (under_load) {
    pace.warm_up = sampler.load().settling();
    pace.observe = observing_load;
  } else {
    // There is no clock to wait for, and the large ones take tens of milliseconds.
    rule.budget = Duration{rule.budget.ns / 4};
    rule.least = std::min(rule.least, 6u);
  }
  SampleSet set = ranks::sample_together(rendezvous, joint, pace, rule);
  if (under_load) sampler.load().was_until_now();
  return set;
}

std::vector<Duration> between_ticks(TimingEvents& ticks, std::uint32_t count) {
  std::vector<Duration> durations;
  for (std::uint32_t k = 1; k < count; ++k) durations.push_back(device::between(ticks[k - 1], ticks[k]));
  return durations;
}

}  // namespace plumb::measure
