#include "runtime/bootstrap/rendezvous.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

namespace plumb {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::uint32_t magic = 0x424d4c50;  // "PLMB"
constexpr std::uint32_t protocol = 1;
constexpr std::uint32_t largest_payload = 1u << 30;
// The others wait a little longer than rank 0, so that they hear from it what is missing.
constexpr milliseconds grace{2'000};

void put(std::byte* at, std::uint32_t value) {
  for (int k = 0; k < 4; ++k) at[k] = static_cast<std::byte>(value >> (8 * k));
}

std::uint32_t get(const std::byte* at) {
  std::uint32_t value = 0;
  for (int k = 0; k < 4; ++k) value |= static_cast<std::uint32_t>(at[k]) << (8 * k);
  return value;
}

std::string packed(std::initializer_list<std::int64_t> values) {
  std::string out;
  for (const std::int64_t value : values) {
    std::array<std::byte, 8> bytes{};
    put(bytes.data(), static_cast<std::uint32_t>(value));
    put(bytes.data() + 4, static_cast<std::uint32_t>(static_cast<std::uint64_t>(value) >> 32));
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return out;
}

// The k-th number of a packed payload that is known to be long enough.
std::int64_t unpacked(std::string_view payload, std::size_t k) {
  const auto* at = reinterpret_cast<const std::byte*>(payload.data()) + 8 * k;
  return static_cast<std::int64_t>(get(at) | static_cast<std::uint64_t>(get(at + 4)) << 32);
}

std::string seconds(milliseconds time) {
  return fmt::format("{:.3g}", static_cast<double>(time.count()) / 1000);
}

}  // namespace

std::string rank_list(const std::vector<std::uint32_t>& ascending) {
  std::string out;
  for (std::size_t from = 0; from < ascending.size();) {
    std::size_t to = from;
    while (to + 1 < ascending.size() && ascending[to + 1] == ascending[to] + 1) ++to;
    if (!out.empty()) out += ", ";
    out += to > from + 1 ? fmt::format("{} to {}", ascending[from], ascending[to])
                         : fmt::format("{}", ascending[from]);
    from = to > from + 1 ? to + 1 : from + 1;
  }
  return out;
}

Rendezvous::Rendezvous(const Placement& placement, milliseconds deadline)
    : rank_(placement.rank), ranks_(placement.ranks), limit_(deadline), host_(placement.host) {
  if (ranks_ == 1) return;
  const Deadline until = this->deadline();
  if (rank_ == 0) {
    accept_all(placement, until);
  } else {
    join(placement, until + grace);
  }
}

std::string Rendezvous::address() const {
  if (rank_ == 0) return host_;
  // Whoever sees rank 0 over loopback is on its machine, and for the others that has another name.
  const std::string own = local_address(peers_[0]);
  return own == "::1" || own.starts_with("127.") ? host_ : own;
}

// Coming together

void Rendezvous::accept_all(const Placement& placement, Deadline deadline) {
  const Socket listener = listen_on(placement.host, placement.port);
  peers_.resize(ranks_);
  std::uint32_t come = 1;
  while (come < ranks_) {
    std::optional<Socket> socket = accept_until(listener, deadline);
    if (!socket) {
      std::vector<std::uint32_t> missing;
      for (std::uint32_t r = 1; r < ranks_; ++r) {
        if (!peers_[r].is_open()) missing.push_back(r);
      }
      fail(fmt::format("after {} s {} {} of {} {} not come to {}:{}", seconds(limit_),
                       missing.size() == 1 ? "rank" : "ranks", rank_list(missing), ranks_,
                       missing.size() == 1 ? "has" : "have", placement.host, placement.port));
    }
    // Whoever connects and then says nothing must not keep the others waiting for long.
    const Deadline soon = std::min(deadline, steady_clock::now() + std::chrono::seconds{2});
    Io status = Io::done;
    const std::optional<Frame> hello = receive(*socket, soon, status);
    if (!hello || hello->kind != Kind::hello || hello->payload.size() < 24) continue;
    std::uint32_t rank = 0;
    const std::string refusal = refusal_of(*hello, placement, rank);
    if (!refusal.empty()) {
      send(*socket, {Kind::refusal, Call::join, 0, refusal}, soon);
      continue;
    }
    peers_[rank] = std::move(*socket);
    ++come;
  }
  for (const std::uint32_t rank : neighbours()) {
    if (!send(peers_[rank], {Kind::welcome, Call::join, 0, ""}, deadline))
      fail(fmt::format("rank {} is gone", rank));
  }
}

std::string Rendezvous::refusal_of(const Frame& hello, const Placement& placement,
                                   std::uint32_t& rank) const {
  const std::string_view payload = hello.payload;
  const std::string_view job = payload.substr(24);
  if (unpacked(payload, 0) != protocol) return "another version of plumb waits here";
  if (job != placement.job) {
    return fmt::format(
        "another job ({}) meets at this port; MASTER_PORT or --rendezvous HOST:PORT choose another",
        placement.job);
  }
  if (unpacked(payload, 1) != ranks_) {
    return fmt::format("rank 0 was started as one of {}, this one as one of {}", ranks_,
                       unpacked(payload, 1));
  }
  const std::int64_t claimed = unpacked(payload, 2);
  if (claimed < 1 || claimed >= ranks_) return fmt::format("there is no rank {} of {}", claimed, ranks_);
  rank = static_cast<std::uint32_t>(claimed);
  if (peers_[rank].is_open()) return fmt::format("rank {} is here already", rank);
  return "";
}

void Rendezvous::join(const Placement& placement, Deadline deadline) {
  const std::string nobody = fmt::format("rank 0 has not answered at {}:{} within {} s", placement.host,
                                         placement.port, seconds(limit_));
  std::optional<Socket> socket = connect_until(placement.host, placement.port, deadline - grace);
  if (!socket) fail(nobody);
  peers_.push_back(std::move(*socket));
  send(peers_[0], {Kind::hello, Call::join, 0, packed({protocol, ranks_, rank_}) + placement.job}, deadline);
  Io status = Io::done;
  const std::optional<Frame> answer = receive(peers_[0], deadline, status);
  if (!answer) fail(status == Io::closed ? fmt::format("{}: it hung up", nobody) : nobody);
  if (answer->kind != Kind::welcome) fail(answer->payload);
}

// What all do together

std::vector<std::string> Rendezvous::gather(std::string_view mine) {
  begin(Call::gather);
  if (rank_ != 0) {
    send_to(0, mine);
    return {};
  }
  std::vector<std::string> all = collect(neighbours());
  all.insert(all.begin(), std::string(mine));
  return all;
}

std::string Rendezvous::broadcast(std::string_view of_rank_0) {
  begin(Call::broadcast);
  if (rank_ != 0) return collect({0}).front();
  for (const std::uint32_t rank : neighbours()) send_to(rank, of_rank_0);
  return std::string(of_rank_0);
}

void Rendezvous::barrier() {
  begin(Call::barrier);
  if (rank_ != 0) {
    send_to(0, "");
    collect({0});
    return;
  }
  collect(neighbours());
  for (const std::uint32_t rank : neighbours()) send_to(rank, "");
}

ClockOffset Rendezvous::clock_offset(const std::function<TimePoint()>& now) {
  constexpr int round_trips = 32;
  begin(Call::clock);
  if (rank_ != 0) {
    for (int k = 0; k < round_trips; ++k) {
      collect({0});
      send_to(0, packed({now().ns}));
    }
    const std::string result = collect({0}).front();
    if (result.size() != 16) fail("rank 0 sent no clock offset");
    return {{unpacked(result, 0)}, {unpacked(result, 1)}};
  }
  // One rank after the other, so that none waits for another's answer inside a round trip.
  for (const std::uint32_t rank : neighbours()) {
    ClockOffset best;
    for (int k = 0; k < round_trips; ++k) {
      const TimePoint asked = now();
      send_to(rank, "");
      const std::string answer = collect({rank}).front();
      const TimePoint heard = now();
      if (answer.size() != 8) fail(fmt::format("rank {} sent no time", rank));
      const Duration half{(heard - asked).ns / 2};
      if (k > 0 && half >= best.uncertainty) continue;
      best = {{unpacked(answer, 0) - (asked + half).ns}, half};
    }
    send_to(rank, packed({best.offset.ns, best.uncertainty.ns}));
  }
  return {};
}

void Rendezvous::abort(std::string_view why) noexcept {
  if (ranks_ == 1 || failure_) return;
  try {
    failure_ = fmt::format("rank {} aborted: {}", rank_, why);
    const Deadline soon = steady_clock::now() + std::chrono::seconds{2};
    for (const Socket& peer : peers_) {
      if (peer.is_open()) send(peer, {Kind::abort, call_, sequence_, *failure_}, soon);
    }
  } catch (...) {
    // Out of memory while giving up: the others see the connection close.
  }
}

std::optional<std::string> Rendezvous::aborted() {
  if (failure_ || ranks_ == 1) return failure_;
  const std::vector<std::uint32_t> all = neighbours();
  for (const std::uint32_t rank : all) {
    std::array<std::byte, header_size> header{};
    const Peeked peeked = peek(peers_[rank], header);
    const bool abort = peeked.bytes == header_size && get(header.data()) == magic &&
                       header[4] == static_cast<std::byte>(Kind::abort);
    if (!peeked.closed && !abort) continue;
    try {
      if (peeked.closed) fail(fmt::format("rank {} is gone", rank));
      collect({rank});
    } catch (const DeviceError&) {
      return failure_;
    }
  }
  return std::nullopt;
}

// One frame

void Rendezvous::begin(Call call) {
  if (failure_) throw DeviceError(here() + *failure_);
  call_ = call;
  ++sequence_;
}

Deadline Rendezvous::deadline() const { return steady_clock::now() + limit_; }

bool Rendezvous::send(const Socket& socket, const Frame& frame, Deadline deadline) const {
  std::array<std::byte, header_size> header{};
  put(header.data(), magic);
  header[4] = static_cast<std::byte>(frame.kind);
  header[5] = static_cast<std::byte>(frame.call);
  put(header.data() + 8, frame.sequence);
  put(header.data() + 12, static_cast<std::uint32_t>(frame.payload.size()));
  // One write, so that a small frame is one packet.
  std::string whole(reinterpret_cast<const char*>(header.data()), header.size());
  whole += frame.payload;
  return write_all(socket, std::as_bytes(std::span(whole)), deadline) == Io::done;
}

std::optional<Rendezvous::Frame> Rendezvous::receive(const Socket& socket, Deadline deadline,
                                                     Io& status) const {
  std::array<std::byte, header_size> header{};
  status = read_all(socket, header, deadline);
  if (status != Io::done) return std::nullopt;
  const std::uint32_t length = get(header.data() + 12);
  const auto kind = static_cast<std::uint8_t>(header[4]);
  const auto call = static_cast<std::uint8_t>(header[5]);
  if (get(header.data()) != magic || kind > static_cast<std::uint8_t>(Kind::abort) ||
      call > static_cast<std::uint8_t>(Call::clock) || length > largest_payload) {
    status = Io::closed;  // not one of ours
    return std::nullopt;
  }
  Frame frame{static_cast<Kind>(kind), static_cast<Call>(call), get(header.data() + 8), ""};
  // Nobody gets memory for what it only announces: strangers may knock at this port.
  const std::uint32_t step = 1u << 20;
  while (frame.payload.size() < length) {
    const std::size_t at = frame.payload.size();
    frame.payload.resize(at + std::min<std::size_t>(step, length - at));
    status = read_all(socket, std::as_writable_bytes(std::span(frame.payload)).subspan(at), deadline);
    if (status != Io::done) return std::nullopt;
  }
  return frame;
}

void Rendezvous::send_to(std::uint32_t rank, std::string_view payload) {
  if (payload.size() > largest_payload)
    fail(fmt::format("{} bytes are too many for one message", payload.size()));
  // A rank that has failed hangs up after saying why: what it said is read in the next collect.
  const bool sent = send(peers_[rank], {Kind::data, call_, sequence_, std::string(payload)}, deadline());
  if (!sent && rank_ != 0) collect({0});
  if (!sent) fail(fmt::format("rank {} is gone", rank));
}

std::vector<std::string> Rendezvous::collect(const std::vector<std::uint32_t>& from) {
  const Deadline until = deadline() + (rank_ == 0 ? milliseconds{0} : grace);
  std::vector<std::string> payloads(from.size());
  std::vector<std::size_t> waiting(from.size());
  for (std::size_t k = 0; k < from.size(); ++k) waiting[k] = k;
  while (!waiting.empty()) {
    std::vector<const Socket*> sockets;
    for (const std::size_t k : waiting) sockets.push_back(&peers_[from[k]]);
    const std::vector<bool> ready = readable(sockets, until);
    if (std::none_of(ready.begin(), ready.end(), [](bool r) { return r; })) {
      std::vector<std::uint32_t> late;
      for (const std::size_t k : waiting) late.push_back(from[k]);
      fail(fmt::format("{} {} {} not come to {} within {} s", late.size() == 1 ? "rank" : "ranks",
                       rank_list(late), late.size() == 1 ? "has" : "have", words(call_), seconds(limit_)));
    }
    std::vector<std::size_t> still;
    for (std::size_t k = 0; k < waiting.size(); ++k) {
      const std::size_t place = waiting[k];
      if (!ready[k]) {
        still.push_back(place);
        continue;
      }
      Io status = Io::done;
      const std::optional<Frame> frame = receive(peers_[from[place]], until, status);
      if (!frame)
        fail(fmt::format("rank {} {}", from[place],
                         status == Io::closed ? "is gone" : "stopped in the middle of a message"));
      payloads[place] = checked(from[place], *frame);
    }
    waiting = still;
  }
  return payloads;
}

std::string Rendezvous::checked(std::uint32_t from, const Frame& frame) {
  if (frame.kind == Kind::abort) fail(frame.payload);
  if (frame.kind != Kind::data || frame.call != call_ || frame.sequence != sequence_) {
    fail(fmt::format("rank {} is at its call {} ({}), rank {} at its call {} ({})", from, frame.sequence,
                     words(frame.call), rank_, sequence_, words(call_)));
  }
  return frame.payload;
}

std::vector<std::uint32_t> Rendezvous::neighbours() const {
  std::vector<std::uint32_t> ranks;
  if (rank_ != 0) return {0};
  for (std::uint32_t r = 1; r < ranks_; ++r) ranks.push_back(r);
  return ranks;
}

// Tells those that are still there, and throws.
void Rendezvous::fail(const std::string& why) {
  failure_ = why;
  const Deadline soon = steady_clock::now() + std::chrono::seconds{2};
  for (const Socket& peer : peers_) {
    if (peer.is_open()) send(peer, {Kind::abort, call_, sequence_, why}, soon);
  }
  throw DeviceError(here() + why);
}

std::string Rendezvous::here() const { return fmt::format("rank {}, {}: ", rank_, at_); }

std::string Rendezvous::words(Call call) const {
  constexpr std::array<std::string_view, 5> names{"joining", "gather", "broadcast", "barrier",
                                                  "clock offset"};
  return std::string(names[static_cast<std::size_t>(call)]);
}

}  // namespace plumb
