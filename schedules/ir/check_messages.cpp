#include "schedules/ir/check_parts.hpp"

#include <algorithm>
#include <array>
#include <map>

#include <fmt/format.h>

namespace plumb::checking {
namespace {

struct MessageSpot {
  Spot spot;
  Rank peer;
};

}  // namespace

void check_messages(const Census& census, Findings& findings) {
  std::map<Op, MessageSpot> found;
  // [from, to] -> what is sent and what is received, in each side's order.
  std::map<std::pair<Rank, Rank>, std::array<std::vector<std::pair<Need, MessageSpot>>, 2>> channels;
  census.for_each_message([&](const Spot& spot, const Message& message) {
    const Op& op = message.op;
    const bool no_neighbour = op.kind == OpKind::send_forward || op.kind == OpKind::recv_backward
                                  ? op.stage.value + 1 >= census.lowered().stages
                                  : op.stage.value == 0;
    if (!census.in_range(op) || no_neighbour) {
      findings.report(ViolationKind::out_of_range, spot, op,
                      !census.in_range(op)
                          ? census.range_text(op)
                          : fmt::format("{} has no neighbouring stage to exchange with", to_string(op)));
      return;
    }
    const Need need = carried_by(op);
    const auto maker = census.maker_of(need);
    const auto user = maker ? census.remote_user(need, maker->rank) : std::nullopt;
    if (!maker || !user) {
      if (maker && !user) {
        findings.report(ViolationKind::out_of_range, spot, op,
                        fmt::format("{} is not needed: no other rank waits for {}", to_string(op),
                                    to_string(census.made_by(need))));
      }
      return;
    }
    const Spot& own = is_send(op.kind) ? *maker : user->second;
    const Spot& other = is_send(op.kind) ? user->second : *maker;
    const Op own_op = is_send(op.kind) ? census.made_by(need) : user->first;
    if (own.rank != spot.rank) {
      findings.report(ViolationKind::two_owners, spot, op,
                      fmt::format("{} is on rank {}, but {} is on rank {}", to_string(op), spot.rank.value,
                                  to_string(own_op), own.rank.value));
      return;
    }
    if (message.peer != other.rank && message.peer != unknown_peer) {
      findings.report(ViolationKind::out_of_range, spot, op,
                      fmt::format("{} names rank {} as its peer, the other side is on rank {}", to_string(op),
                                  message.peer.value, other.rank.value));
    }
    const auto [at, is_new] = found.emplace(op, MessageSpot{spot, other.rank});
    if (!is_new) {
      findings.report(
          ViolationKind::doubled, spot, op,
          fmt::format("{} stands twice, also at element {}", to_string(op), at->second.spot.index));
      return;
    }
    const bool late = is_send(op.kind) ? spot.index <= own.index : spot.index >= own.index;
    if (late) {
      findings.report(ViolationKind::out_of_order, spot, op,
                      is_send(op.kind)
                          ? fmt::format("{} stands ahead of {} (element {}), which makes what it sends",
                                        to_string(op), to_string(own_op), own.index)
                          : fmt::format("{} stands behind {} (element {}), which needs what it receives",
                                        to_string(op), to_string(own_op), own.index));
    }
    const auto channel =
        is_send(op.kind) ? std::pair{spot.rank, other.rank} : std::pair{other.rank, spot.rank};
    channels[channel][is_send(op.kind) ? 0 : 1].push_back({need, {spot, other.rank}});
  });
  for (const auto& [at, cell] : census.cells()) {
    for (const Product product : {Product::activation, Product::input_gradient}) {
      const Need need{product, Stage{at.first}, Microbatch{at.second}};
      const auto maker = census.maker_of(need);
      const auto user = maker ? census.remote_user(need, maker->rank) : std::nullopt;
      if (!user) continue;
      const auto missing = [&](const Op& op, Rank rank, Rank peer) {
        if (found.contains(op)) return;
        findings.report(
            ViolationKind::missing, rank.value, -1, to_string(op),
            fmt::format("{} is in nobody's list: rank {} {} rank {}", to_string(op), rank.value,
                        is_send(op.kind) ? "never sends it to" : "never receives it from", peer.value));
      };
      missing(send_of(need), maker->rank, user->second.rank);
      missing(recv_of(need), user->second.rank, maker->rank);
    }
  }
  for (auto& [ends, sides] : channels) {
    auto& [sends, receives] = sides;
    const auto lacks_partner = [&](bool receive) {
      return [&found, receive](const auto& message) {
        return !found.contains(receive ? recv_of(message.first) : send_of(message.first));
      };
    };
    std::erase_if(sends, lacks_partner(true));
    std::erase_if(receives, lacks_partner(false));
    for (std::size_t k = 0; k < std::min(sends.size(), receives.size()); ++k) {
      if (sends[k].first == receives[k].first) continue;
      findings.report(
          ViolationKind::out_of_order, receives[k].second.spot, recv_of(receives[k].first),
          fmt::format("rank {} receives {} where rank {} sends {} next: two ranks exchange in one "
                      "order, or data is mixed up",
                      ends.second.value, to_string(recv_of(receives[k].first)), ends.first.value,
                      to_string(send_of(sends[k].first))));
      break;  // everything behind the first crossing is shifted too
    }
  }
}

}  // namespace plumb::checking
