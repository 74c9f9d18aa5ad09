#include "schedules/ir/check_parts.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

namespace plumb::checking {
namespace {

// Runs everything under rendezvous; who still stands waits for somebody who stands.
class DeadlockSearch {
 public:
  DeadlockSearch(const Census& census, Findings& findings) : census_(census), findings_(findings) {}

  std::vector<Waiting> run() {
    cursors_.assign(census_.lowered().ranks(), {});
    made_.clear();
    for (bool progress = true; progress;) {
      progress = false;
      for (std::uint32_t r = 0; r < census_.lowered().ranks(); ++r) {
        while (advance(Rank{r})) progress = true;
      }
    }
    std::vector<std::uint32_t> colour(census_.lowered().ranks(), 0);
    std::vector<Rank> path;
    for (std::uint32_t r = 0; r < census_.lowered().ranks(); ++r) {
      if (colour[r] == 0 && search_cycle(Rank{r}, colour, path)) return std::move(cycle_);
    }
    return {};
  }

 private:
  struct Cursor {
    std::uint32_t next = 0;             // element to run
    std::vector<std::uint32_t> stream;  // elements with messages that were launched, in order
    std::size_t head = 0;               // first of them not done
    std::vector<std::uint8_t> met;      // of the head's messages
    bool done(const std::vector<Step>& steps) const { return next == steps.size() && head == stream.size(); }
  };

  bool advance(Rank rank) {
    Cursor& cursor = cursors_[rank.value];
    const LoweredRank& list = census_.lowered().per_rank[rank.value];
    if (meet_head(rank)) return true;
    if (cursor.next == list.steps.size()) return false;
    const Step& step = list.steps[cursor.next];
    if (const auto* action = std::get_if<Action>(&step)) {
      for (const Op& op : *action) {
        if (!census_.in_range(op)) continue;
        for (const Need& need : needs_of(op, census_.lowered().stages)) {
          if (waits(rank, cursor.next, need)) return false;
        }
      }
      for (const Op& op : *action) make(op);
      ++cursor.next;
      return true;
    }
    if (const auto* batch = std::get_if<CommBatch>(&step)) {
      const bool launched = !cursor.stream.empty() && cursor.stream.back() == cursor.next;
      if (!launched) {
        cursor.stream.push_back(cursor.next);
        if (!batch->waited_together) ++cursor.next;
        return true;
      }
      if (cursor.head < cursor.stream.size()) return false;
    }
    ++cursor.next;
    return true;
  }

  void make(const Op& op) {
    if (!census_.in_range(op)) return;
    if (op.kind == OpKind::forward) made_[{Product::activation, op.stage, op.microbatch}] = true;
    if (gives_input_gradient(op.kind)) made_[{Product::input_gradient, op.stage, op.microbatch}] = true;
  }

  // An input that nobody makes, or that its own rank makes too late, was reported already; it keeps nobody.
  bool waits(Rank rank, std::uint32_t index, const Need& need) const {
    const auto maker = census_.maker_of(need);
    if (!maker) return false;
    if (maker->rank == rank) return false;
    if (census_.has_messages()) {
      if (received_.contains(need)) return false;
      return receive_stands_before(rank, index, need);
    }
    return !made_.contains(need);
  }

  bool receive_stands_before(Rank rank, std::uint32_t index, const Need& need) const {
    for (std::size_t k = cursors_[rank.value].head; k < cursors_[rank.value].stream.size(); ++k) {
      const std::uint32_t element = cursors_[rank.value].stream[k];
      if (element >= index) break;
      for (const Message& message : batch_at(rank, element)) {
        if (message.op == recv_of(need)) return true;
      }
    }
    return false;
  }

  std::span<const Message> batch_at(Rank rank, std::uint32_t element) const {
    const LoweredRank& list = census_.lowered().per_rank[rank.value];
    return list.messages_of(std::get<CommBatch>(list.steps[element]));
  }

  // Tries to pair the messages at the head of the rank's stream with the heads of their peers.
  bool meet_head(Rank rank) {
    Cursor& cursor = cursors_[rank.value];
    if (cursor.head == cursor.stream.size()) return false;
    const auto messages = batch_at(rank, cursor.stream[cursor.head]);
    cursor.met.resize(messages.size(), 0);
    bool all = true;
    for (std::size_t k = 0; k < messages.size(); ++k) {
      if (!cursor.met[k]) try_meet(rank, messages[k], cursor.met[k]);
      all &= cursor.met[k] != 0;
    }
    if (!all) return false;
    ++cursor.head;
    cursor.met.clear();
    return true;
  }

  void try_meet(Rank rank, const Message& message, std::uint8_t& met) {
    const auto other = other_side(rank, message);
    if (!other) {
      met = 1;  // reported already
      return;
    }
    Cursor& peer = cursors_[other->first.value];
    if (peer.head == peer.stream.size()) return;
    const auto theirs = batch_at(other->first, peer.stream[peer.head]);
    peer.met.resize(theirs.size(), 0);
    for (std::size_t k = 0; k < theirs.size(); ++k) {
      if (theirs[k].op != other->second || peer.met[k]) continue;
      met = peer.met[k] = 1;
      received_.emplace(carried_by(message.op), true);
      return;
    }
  }

  // The rank and the message op on the other side; nothing where it is not in that rank's list.
  std::optional<std::pair<Rank, Op>> other_side(Rank, const Message& message) const {
    if (!census_.in_range(message.op)) return std::nullopt;
    const Need need = carried_by(message.op);
    const auto maker = census_.maker_of(need);
    const auto user = maker ? census_.remote_user(need, maker->rank) : std::nullopt;
    if (!maker || !user) return std::nullopt;
    const bool sends = is_send(message.op.kind);
    const Rank other = sends ? user->second.rank : maker->rank;
    const Op op = sends ? recv_of(need) : send_of(need);
    if (sides_.empty()) {
      census_.for_each_message([&](const Spot& spot, const Message& m) {
        sides_.emplace(std::pair{spot.rank, m.op}, spot.index);
      });
    }
    return sides_.contains({other, op}) ? std::optional(std::pair{other, op}) : std::nullopt;
  }

  // Where a rank stands, and for which ranks it waits.
  struct Stand {
    std::uint32_t index = 0;
    std::string action;
    std::string waits_for;
  };

  std::vector<std::pair<Rank, Stand>> waits_of(Rank rank) const {
    std::vector<std::pair<Rank, Stand>> out;
    const Cursor& cursor = cursors_[rank.value];
    const auto& steps = census_.lowered().per_rank[rank.value].steps;
    if (cursor.head < cursor.stream.size()) {
      const std::uint32_t element = cursor.stream[cursor.head];
      const auto messages = batch_at(rank, element);
      for (std::size_t k = 0; k < messages.size(); ++k) {
        if (k < cursor.met.size() && cursor.met[k]) continue;
        if (const auto other = other_side(rank, messages[k])) {
          out.emplace_back(other->first, Stand{element, to_string(messages[k].op), to_string(other->second)});
        }
      }
      return out;
    }
    if (cursor.next == steps.size()) return out;
    if (const auto* action = std::get_if<Action>(&steps[cursor.next])) {
      for (const Op& op : *action) {
        if (!census_.in_range(op)) continue;
        for (const Need& need : needs_of(op, census_.lowered().stages)) {
          if (!waits(rank, cursor.next, need)) continue;
          out.emplace_back(census_.maker_of(need)->rank,
                           Stand{cursor.next, to_string(*action), to_string(census_.made_by(need))});
        }
      }
    }
    return out;
  }

  bool search_cycle(Rank rank, std::vector<std::uint32_t>& colour, std::vector<Rank>& path) {
    colour[rank.value] = 1;
    path.push_back(rank);
    for (const auto& [to, stand] : waits_of(rank)) {
      if (colour[to.value] == 1) {
        report_cycle({std::find(path.begin(), path.end(), to), path.end()});
        return true;
      }
      if (colour[to.value] == 0 && search_cycle(to, colour, path)) return true;
    }
    colour[rank.value] = 2;
    path.pop_back();
    return false;
  }

  void report_cycle(std::vector<Rank> ring) {
    std::rotate(ring.begin(), std::min_element(ring.begin(), ring.end()), ring.end());
    struct Member {
      Rank rank;
      Rank next;
      Stand stand;
    };
    std::vector<Member> members;
    for (std::size_t k = 0; k < ring.size(); ++k) {
      const Rank next = ring[(k + 1) % ring.size()];
      for (auto& [to, stand] : waits_of(ring[k])) {
        if (to != next) continue;
        members.push_back({ring[k], next, stand});
        break;
      }
    }
    // The smallest fix: of all the ops waited for, the one that has to move the fewest places to the front.
    std::string fix;
    std::uint32_t fewest = std::numeric_limits<std::uint32_t>::max();
    for (std::size_t k = 0; k < members.size(); ++k) {
      const Member& waited = members[(k + 1) % members.size()];
      const auto at = index_of(waited.rank, members[k].stand.waits_for);
      if (!at || *at <= waited.stand.index || *at - waited.stand.index >= fewest) continue;
      fewest = *at - waited.stand.index;
      fix = fmt::format("moving {} on rank {} from element {} ahead of {} (element {}) would break the cycle",
                        members[k].stand.waits_for, waited.rank.value, *at, waited.stand.action,
                        waited.stand.index);
    }
    for (const Member& member : members) {
      cycle_.push_back({member.rank, member.stand.index, member.stand.action});
      findings_.report(
          ViolationKind::deadlock, member.rank.value, member.stand.index, member.stand.action,
          fmt::format(
              "rank {} stands at {} and waits for {} of rank {}, which waits in the same ring of {}{}{}",
              member.rank.value, member.stand.action, member.stand.waits_for, member.next.value,
              members.size(), fix.empty() ? "" : "; ", fix));
    }
  }

  std::optional<std::uint32_t> index_of(Rank rank, const std::string& token) const {
    const LoweredRank& list = census_.lowered().per_rank[rank.value];
    for (std::uint32_t i = 0; i < list.steps.size(); ++i) {
      if (const auto* action = std::get_if<Action>(&list.steps[i])) {
        for (const Op& op : *action) {
          if (to_string(op) == token) return i;
        }
      } else if (const auto* batch = std::get_if<CommBatch>(&list.steps[i])) {
        for (const Message& message : list.messages_of(*batch)) {
          if (to_string(message.op) == token) return i;
        }
      }
    }
    return std::nullopt;
  }

  const Census& census_;
  Findings& findings_;
  std::vector<Waiting> cycle_;
  std::vector<Cursor> cursors_;
  std::map<Need, bool> made_;
  std::map<Need, bool> received_;
  mutable std::map<std::pair<Rank, Op>, std::uint32_t> sides_;
};

}  // namespace

std::vector<Waiting> find_deadlock(const Census& census, Findings& findings) {
  return DeadlockSearch(census, findings).run();
}

}  // namespace plumb::checking
