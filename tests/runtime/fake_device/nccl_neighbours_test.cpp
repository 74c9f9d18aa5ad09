#include "calibrate/measure/nccl_neighbours.hpp"

#include "runtime/device/buffer.hpp"
#include "schedules/ir/error.hpp"
#include "tests/support/rank_threads.hpp"

#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using namespace plumb::test;
using measure::NcclLinks;
using measure::NeighbourMessages;

constexpr Bytes size{64};

// A rank with its links and its messages; all bytes that it sends are its number, counted from 1.
struct Place {
  explicit Place(Rendezvous& rendezvous)
      : links(rendezvous, nullptr, std::chrono::seconds{20}), sent(size), received(size * 2) {
    std::memset(sent.data(), static_cast<int>(rendezvous.rank() + 1), 64);
    std::memset(received.data(), 0, 128);
  }
  NeighbourMessages messages(Rendezvous& rendezvous) {
    return {rendezvous, links, compute, {size, sent.data(), {at(0), at(1)}, 1}};
  }
  std::byte* at(std::size_t which) const { return received.as<std::byte>() + which * 64; }

  device::Stream compute;
  NcclLinks links;
  device::Buffer sent, received;
};

std::vector<std::string> on_ranks(std::uint32_t ranks, const std::function<void(Rendezvous&)>& body) {
  return run_ranks(ranks, [&](Rendezvous& rendezvous) -> std::string {
    try {
      body(rendezvous);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  });
}

// Rank r computes 20 r ops, so nobody sends as often as its neighbour receives. It ends twice, and what came
// last is each neighbour's.
TEST(NeighbourMessages, EndHoweverOftenEachRankSends) {
  for (const std::uint32_t ranks : {2u, 5u}) {
    const std::vector<std::string> errors = on_ranks(ranks, [&](Rendezvous& rendezvous) {
      Place place(rendezvous);
      NeighbourMessages messages = place.messages(rendezvous);
      const std::uint32_t rank = rendezvous.rank();
      for (int measured = 0; measured < 2; ++measured) {
        messages.send_behind_op();  // nothing yet
        messages.begin();
        for (std::uint32_t op = 0; op < 20 * rank; ++op) messages.send_behind_op();
        messages.end();
        messages.send_behind_op();  // nothing any more
      }
      // From the rank before, whose number is one less, and from the one behind.
      EXPECT_EQ(place.at(0)[63], static_cast<std::byte>(rank));
      EXPECT_EQ(place.at(1)[63], static_cast<std::byte>(rank + 1 < ranks ? rank + 2 : 0));
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

// What computes beside what is measured does so in a thread of its own, and goes on when its rank is ready.
TEST(NeighbourMessages, GoOnFromAnotherThreadUntilAllHaveMeasured) {
  const std::vector<std::string> errors = on_ranks(3, [&](Rendezvous& rendezvous) {
    Place place(rendezvous);
    NeighbourMessages messages = place.messages(rendezvous);
    std::jthread beside([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) messages.send_behind_op();
    });
    messages.begin();
    std::this_thread::sleep_for(std::chrono::milliseconds(10 * rendezvous.rank()));
    messages.end();
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(NeighbourMessages, ARankThatFailsEndsTheOthers) {
  const std::vector<std::string> errors = on_ranks(3, [&](Rendezvous& rendezvous) {
    Place place(rendezvous);
    NeighbourMessages messages = place.messages(rendezvous);
    messages.begin();
    if (rendezvous.rank() == 1) {
      rendezvous.abort("rank 1: out of memory");
      place.links.abort();
      throw DeviceError("out of memory");
    }
    messages.end();
  });
  EXPECT_EQ(errors[1], "out of memory");
  for (const std::uint32_t other : {0u, 2u})
    EXPECT_NE(errors[other].find("out of memory"), std::string::npos);
}

}  // namespace
}  // namespace plumb
