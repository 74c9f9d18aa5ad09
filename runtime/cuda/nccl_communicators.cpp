#include "runtime/cuda/nccl_communicators.hpp"

#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace plumb::cuda {
namespace {

// Each maker makes its ids, and all learn all of them: [maker].
std::vector<device::CommunicatorId> exchange_ids(const std::vector<std::uint32_t>& makers,
                                                 Rendezvous& rendezvous) {
  std::string made;
  for (const std::uint32_t maker : makers) {
    if (maker != rendezvous.rank()) continue;
    const device::CommunicatorId id = device::make_communicator_id();
    made.append(reinterpret_cast<const char*>(id.data()), id.size());
  }
  const std::vector<std::string> from_all = rendezvous.gather(made);
  std::string text;
  if (rendezvous.rank() == 0) {
    std::vector<std::size_t> taken(from_all.size());
    for (const std::uint32_t maker : makers) {
      text += from_all[maker].substr(taken[maker], sizeof(device::CommunicatorId));
      taken[maker] += sizeof(device::CommunicatorId);
    }
  }
  text = rendezvous.broadcast(text);
  std::vector<device::CommunicatorId> ids(makers.size());
  PLUMB_CHECK(text.size() == ids.size() * sizeof(device::CommunicatorId));
  std::memcpy(ids.data(), text.data(), text.size());
  return ids;
}

}  // namespace

std::vector<NcclCommunicators::Wanted> NcclCommunicators::families_of(const NcclGroups& plan) {
  std::vector<Wanted> wanted(plan.parents.size());
  for (std::uint32_t p = 0; p < plan.parents.size(); ++p) wanted[p].parent = p;
  for (std::uint32_t g = 0; g < plan.groups.size(); ++g) {
    const std::uint32_t parent = plan.groups[g].parent;
    if (parent != no_index) {
      wanted[parent].groups.push_back(g);
    } else {
      wanted.push_back({nullptr, no_index, {g}, false});
    }
  }
  std::map<std::vector<std::vector<std::uint32_t>>, std::uint32_t> alike;
  for (Wanted& one : wanted) {
    Key key;
    for (const std::uint32_t g : one.groups) {
      const NcclGroups::Group& group = plan.groups[g];
      std::vector<std::uint32_t>& words = key.first.emplace_back(group.workers);
      if (group.sums) words.push_back(no_index);
      if (one.parent != no_index) words.insert(words.end(), {no_index, group.split, group.part});
    }
    key.second = alike[key.first]++;
    const auto [family, is_new] = families_.try_emplace(std::move(key));
    one.family = &family->second;
    one.is_new = is_new;
  }
  return wanted;
}

void NcclCommunicators::make(const NcclGroups& plan, std::vector<Wanted>& wanted, Rendezvous& rendezvous,
                             const Channels& channels, std::chrono::milliseconds deadline) {
  const std::uint32_t self = rendezvous.rank();
  std::erase_if(wanted, [](const Wanted& one) { return !one.is_new; });
  const auto workers_of = [&](const Wanted& one) -> const std::vector<std::uint32_t>& {
    return one.parent == no_index ? plan.groups[one.groups.front()].workers
                                  : plan.parents[one.parent].workers;
  };
  // Whoever is first in a parent, or in a group without one, makes its id.
  std::vector<std::uint32_t> makers;
  for (const Wanted& one : wanted) makers.push_back(workers_of(one).front());
  const std::vector<device::CommunicatorId> ids = exchange_ids(makers, rendezvous);

  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Wanted& one = wanted[i];
    Family& family = *one.family;
    family.groups.resize(one.groups.size());
    const std::vector<std::uint32_t>& workers = workers_of(one);
    const auto place = std::find(workers.begin(), workers.end(), self);
    if (place == workers.end()) continue;
    const bool sums = plan.groups[one.groups.front()].sums;
    device::Communicator joined(ids[i], static_cast<std::uint32_t>(workers.size()),
                                static_cast<std::uint32_t>(place - workers.begin()),
                                sums ? channels.of_sums : channels.of_messages, deadline);
    if (one.parent != no_index) {
      family.parent = std::move(joined);
      continue;
    }
    family.groups[0] = make_group(workers, std::move(joined));
  }
  for (const Wanted& one : wanted) {
    Family& family = *one.family;
    if (!family.parent) continue;
    for (std::uint32_t split = 0; split < plan.parents[one.parent].splits; ++split) {
      // At most one of a split's groups has this worker.
      std::size_t mine = one.groups.size();
      std::uint32_t place = 0;
      for (std::size_t k = 0; k < one.groups.size(); ++k) {
        const NcclGroups::Group& group = plan.groups[one.groups[k]];
        const auto found = std::find(group.workers.begin(), group.workers.end(), self);
        if (group.split != split || found == group.workers.end()) continue;
        mine = k;
        place = static_cast<std::uint32_t>(found - group.workers.begin());
      }
      const bool takes_part = mine < one.groups.size();
      auto part = family.parent->split(
          takes_part ? std::optional(plan.groups[one.groups[mine]].part) : std::nullopt, place);
      if (!part) continue;
      family.groups[mine] = make_group(plan.groups[one.groups[mine]].workers, std::move(*part));
    }
  }
}

std::unique_ptr<NcclCommunicators::Group> NcclCommunicators::make_group(std::vector<std::uint32_t> workers,
                                                                        device::Communicator communicator) {
  constexpr auto priority = device::Priority::high;
  return std::make_unique<Group>(Group{std::move(workers), std::move(communicator),
                                       share_ ? share_->stream(priority) : device::Stream(priority)});
}

const device::GreenContext* NcclCommunicators::use_share(std::uint32_t shares, std::uint32_t share) {
  if (shares == 0) return nullptr;
  if (shares_.empty()) {
    PLUMB_CHECK(families_.empty());
    shares_ = device::partition(shares);
    share_ = &shares_.at(share);
  }
  PLUMB_CHECK(shares_.size() == shares && share_ == &shares_.at(share));
  return share_;
}

std::vector<NcclCommunicators::Group*> NcclCommunicators::join(const NcclGroups& plan, Rendezvous& rendezvous,
                                                               const Channels& channels,
                                                               std::chrono::milliseconds deadline) {
  if (lost_) throw DeviceError("NCCL's communicators were given up when a worker failed");
  const std::vector<Wanted> wanted = families_of(plan);
  try {
    std::vector<Wanted> missing = wanted;
    make(plan, missing, rendezvous, channels, deadline);
  } catch (...) {
    abort();
    throw;
  }
  std::vector<Group*> groups(plan.groups.size());
  for (const Wanted& one : wanted) {
    for (std::size_t k = 0; k < one.groups.size(); ++k) groups[one.groups[k]] = one.family->groups[k].get();
  }
  return groups;
}

void NcclCommunicators::abort() noexcept {
  lost_ = true;
  for (auto& [key, family] : families_) {
    for (const auto& group : family.groups) {
      if (group) group->communicator.abort();
    }
  }
  for (auto& [key, family] : families_) {
    if (family.parent) family.parent->abort();
  }
}

}  // namespace plumb::cuda
