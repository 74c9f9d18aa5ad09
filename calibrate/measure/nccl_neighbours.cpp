#include "calibrate/measure/nccl_neighbours.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <sstream>
#include <tuple>
#include <utility>

namespace plumb::measure {
namespace {

std::vector<std::uint32_t> numbers(const std::string& text) {
  std::vector<std::uint32_t> all;
  std::istringstream words(text);
  for (std::uint32_t number = 0; words >> number;) all.push_back(number);
  return all;
}

}  // namespace

NeighbourMessages::NeighbourMessages(Rendezvous& rendezvous, NcclLinks& links, const device::Stream& compute,
                                     const Messages& messages)
    : rendezvous_(rendezvous), links_(links), compute_(compute), messages_(messages) {
  const std::uint32_t ranks = rendezvous.ranks();
  ways_ = std::vector<Way>(ranks > 1 ? 2 * (ranks - 1) : 0);
  for (std::uint32_t w = 0; w < ways_.size(); ++w) {
    Way& way = ways_[w];
    std::tie(way.from, way.to) = w % 2 == 0 ? std::pair{w / 2, w / 2 + 1} : std::pair{w / 2 + 1, w / 2};
    way.place = w % 2;  // from the rank before or from the one behind
    way.link = links.between({way.from, way.to}, messages.channels);
    if (!way.link) continue;
    // The first message of a way connects its two ranks, and both have to come to it.
    move(way);
    links.wait(way.done, "the first message of a neighbour");
    way.messages = 0;
  }
}

void NeighbourMessages::move(Way& way) {
  NcclLink& link = *way.link;
  link.communicator.begin_group();
  link.own == 0 ? link.communicator.send(messages_.sent, messages_.bytes, 1, link.stream)
                : link.communicator.receive(messages_.received[way.place], messages_.bytes, 0, link.stream);
  link.communicator.end_group();
  way.done.record(link.stream);
  ++way.messages;
}

// The ways that this rank is at one end of.
std::vector<NeighbourMessages::Way*> NeighbourMessages::own(std::uint32_t Way::*end) {
  std::vector<Way*> own;
  for (Way& way : ways_) {
    if (way.*end == rendezvous_.rank()) own.push_back(&way);
  }
  return own;
}

void NeighbourMessages::begin() {
  const std::lock_guard lock(mutex_);
  for (Way* way : own(&Way::to)) move(*way);
  open_ = true;
}

void NeighbourMessages::send_behind_op() {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  for (Way* way : own(&Way::to)) {
    if (!way->on_its_way()) move(*way);
  }
  const std::vector<Way*> out = own(&Way::from);
  Way& way = *out[next_++ % out.size()];
  if (way.on_its_way()) return;
  way.made.record(compute_);
  way.link->stream.wait(way.made);
  move(way);
}

// How many messages this rank has sent or received, by ways.
std::string NeighbourMessages::counts(std::uint32_t Way::*end) {
  std::string text;
  for (const Way& way : ways_)
    text += std::to_string(way.*end == rendezvous_.rank() ? way.messages : 0) + ' ';
  return text;
}

void NeighbourMessages::end() {
  try {
    // Until all have measured, those that are ready go on sending.
    rendezvous_.barrier();
    const std::lock_guard lock(mutex_);
    open_ = false;
    std::vector<std::uint32_t> most(ways_.size());
    for (const auto which : {&Way::from, &Way::to}) {
      for (const std::string& one : rendezvous_.gather(counts(which))) {
        const std::vector<std::uint32_t> all = numbers(one);
        PLUMB_CHECK(all.size() == most.size());
        for (std::size_t w = 0; w < most.size(); ++w) most[w] = std::max(most[w], all[w]);
      }
    }
    std::string text;
    for (const std::uint32_t count : most) text += std::to_string(count) + ' ';
    most = numbers(rendezvous_.broadcast(text));
    PLUMB_CHECK(most.size() == ways_.size());
    for (std::size_t w = 0; w < ways_.size(); ++w) {
      while (ways_[w].link && ways_[w].messages < most[w]) move(ways_[w]);
    }
  } catch (const DeviceError&) {
    links_.abort();
    throw;
  }
  for (Way& way : ways_) {
    if (way.link) links_.wait(way.done, "the messages of its neighbours");
    way.messages = 0;
  }
}

}  // namespace plumb::measure
