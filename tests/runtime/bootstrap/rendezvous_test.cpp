#include "runtime/bootstrap/rendezvous.hpp"

#include "runtime/bootstrap/agreement.hpp"
#include "schedules/ir/error.hpp"
#include "tests/support/rank_threads.hpp"

#include <array>
#include <atomic>
#include <future>
#include <map>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

// A port that is free just now.
std::uint16_t free_port() { return port_of(listen_on("127.0.0.1", 0)); }

Placement place(std::uint32_t rank, std::uint32_t ranks, std::uint16_t port,
                const std::string& job = "test") {
  return {rank, ranks, rank, ranks, "test", "127.0.0.1", port, job};
}

template <class Body>
std::vector<std::string> run(std::uint32_t ranks, const Body& body,
                             std::chrono::milliseconds deadline = 10s) {
  return test::run_ranks(ranks, body, deadline);
}

TEST(Rendezvous, GathersBroadcastsAndKeepsTheOrder) {
  for (const std::uint32_t ranks : {1u, 2u, 3u, 8u}) {
    const auto out = run(ranks, [](Rendezvous& meeting) {
      std::string sum;
      for (int round = 0; round < 3; ++round) {
        for (const std::string& part : meeting.gather(std::to_string(meeting.rank() * 10 + round)))
          sum += part + " ";
        meeting.barrier();
        const std::string told =
            meeting.broadcast(meeting.rank() == 0 ? "round " + std::to_string(round) : "not me");
        if (told != "round " + std::to_string(round)) return std::string("told ") + told;
      }
      return sum;
    });
    std::string expected;
    for (int round = 0; round < 3; ++round) {
      for (std::uint32_t r = 0; r < ranks; ++r) expected += std::to_string(r * 10 + round) + " ";
    }
    EXPECT_EQ(out[0], expected);
    for (std::uint32_t r = 1; r < ranks; ++r) EXPECT_EQ(out[r], "");
  }
}

TEST(Rendezvous, CarriesNcclsIdAndLargeTexts) {
  std::string id(128, '\0');
  for (std::size_t k = 0; k < id.size(); ++k) id[k] = static_cast<char>(k * 3);
  const std::string large(9'000'000, 'x');
  const auto out = run(4, [&](Rendezvous& meeting) {
    if (meeting.broadcast(meeting.rank() == 0 ? id : "") != id) return "another id";
    const auto all = meeting.gather(large);
    return meeting.rank() != 0 || (all.size() == 4 && all[3] == large) ? "good" : "another text";
  });
  EXPECT_EQ(out, std::vector<std::string>(4, "good"));
}

TEST(Rendezvous, ABarrierHoldsEverybody) {
  std::atomic<int> come{0};
  const auto out = run(6, [&](Rendezvous& meeting) {
    if (meeting.rank() == 4) std::this_thread::sleep_for(60ms);
    ++come;
    meeting.barrier();
    return come == 6 ? "all" : "left early";
  });
  EXPECT_EQ(out, std::vector<std::string>(6, "all"));
}

TEST(Rendezvous, MeasuresHowFarClocksAreApart) {
  // Rank r's clock is r ms ahead. Both clocks are this machine's, so the truth lies within the stated
  // uncertainty.
  const auto out = run(4, [](Rendezvous& meeting) {
    const std::int64_t ahead = meeting.rank() * 1'000'000;
    const ClockOffset clock = meeting.clock_offset([&] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      return TimePoint{std::chrono::nanoseconds(now).count() + ahead};
    });
    const std::int64_t error = clock.offset.ns - ahead;
    return std::abs(error) <= clock.uncertainty.ns + 1 ? std::string("within")
                                                       : std::to_string(error) + " ns off";
  });
  EXPECT_EQ(out, std::vector<std::string>(4, "within"));
}

TEST(Rendezvous, NamesTheRanksThatNeverCame) {
  const std::uint16_t port = free_port();
  std::vector<std::future<std::string>> threads;
  for (const std::uint32_t rank : {0u, 1u, 6u}) {
    threads.push_back(std::async(std::launch::async, [=]() -> std::string {
      try {
        Rendezvous meeting(place(rank, 8, port), 300ms);
        return "met";
      } catch (const DeviceError& error) {
        return error.what();
      }
    }));
  }
  for (auto& thread : threads) {
    EXPECT_THAT(thread.get(), HasSubstr("ranks 2 to 5, 7 of 8 have not come to 127.0.0.1"))
        << "all who came say so";
  }
}

TEST(Rendezvous, SaysWhereRankZeroDidNotAnswer) {
  const std::uint16_t port = free_port();
  try {
    Rendezvous meeting(place(1, 2, port), 200ms);
    FAIL() << "met nobody";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 0 has not answered at 127.0.0.1:" + std::to_string(port)));
  }
}

TEST(Rendezvous, NamesTheRankThatDoesNotComeToACall) {
  const auto out = run(
      4,
      [](Rendezvous& meeting) {
        meeting.barrier();
        if (meeting.rank() == 2) {
          std::this_thread::sleep_for(900ms);
        }
        meeting.barrier();
        return "passed";
      },
      300ms);
  for (const std::uint32_t rank : {0u, 1u, 3u})
    EXPECT_THAT(out[rank], HasSubstr("rank 2 has not come to barrier"));
}

TEST(Rendezvous, NamesTheRankThatIsGone) {
  const auto out = run(3, [](Rendezvous& meeting) {
    if (meeting.rank() == 1) return "left";
    meeting.gather("x");
    meeting.barrier();
    return "passed";
  });
  EXPECT_THAT(out[0], HasSubstr("rank 1 is gone"));
  EXPECT_THAT(out[2], HasSubstr("rank 1 is gone"));
}

TEST(Rendezvous, AnAbortReachesEverybodyWithItsReason) {
  const auto out = run(4, [](Rendezvous& meeting) {
    meeting.barrier();
    if (meeting.rank() == 3) {
      meeting.abort("out of memory");
      return std::string("gave up");
    }
    // Rank 1 computes meanwhile and only asks; the others wait in a call.
    if (meeting.rank() == 1) {
      for (int k = 0; k < 500; ++k) {
        if (const auto why = meeting.aborted()) return "asked: " + *why;
        std::this_thread::sleep_for(2ms);
      }
      return std::string("never heard of it");
    }
    meeting.barrier();
    return std::string("passed");
  });
  EXPECT_EQ(out[3], "gave up");
  EXPECT_EQ(out[0], "rank 0, at the rendezvous: rank 3 aborted: out of memory");
  EXPECT_EQ(out[1], "asked: rank 3 aborted: out of memory");
  EXPECT_EQ(out[2], "rank 2, at the rendezvous: rank 3 aborted: out of memory");
}

TEST(Rendezvous, RankZeroHearsOfAnAbortByAskingToo) {
  const auto out = run(3, [](Rendezvous& meeting) {
    if (meeting.rank() == 1) {
      meeting.abort("the GPU fell off");
      return std::string("gave up");
    }
    for (int k = 0; k < 500; ++k) {
      if (const auto why = meeting.aborted()) return *why;
      std::this_thread::sleep_for(2ms);
    }
    return std::string("never heard of it");
  });
  EXPECT_EQ(out[0], "rank 1 aborted: the GPU fell off");
  EXPECT_EQ(out[2], "rank 1 aborted: the GPU fell off");
}

TEST(Rendezvous, AnAskerDoesNotMistakeACallForAnAbort) {
  // Rank 1's gather waits to be read while rank 0 asks.
  const auto out = run(2, [](Rendezvous& meeting) {
    if (meeting.rank() == 0) {
      std::this_thread::sleep_for(50ms);
      if (const auto why = meeting.aborted()) return *why;
    }
    const auto all = meeting.gather("x");
    meeting.barrier();
    return std::to_string(all.size());
  });
  EXPECT_EQ(out, (std::vector<std::string>{"2", "0"}));
}

TEST(Rendezvous, RanksThatCallDifferentThingsAreTold) {
  const auto out = run(2, [](Rendezvous& meeting) {
    if (meeting.rank() == 0) {
      meeting.barrier();
    } else {
      meeting.gather("x");
      meeting.barrier();
    }
    return "passed";
  });
  EXPECT_THAT(out[0], HasSubstr("rank 1 is at its call 1 (gather), rank 0 at its call 1 (barrier)"));
  EXPECT_THAT(out[1], HasSubstr("rank 1 is at its call 1 (gather)"));
}

// What a joining process is told.
std::string answer_to(const Placement& placement) {
  try {
    Rendezvous meeting(placement, 2s);
    return "met";
  } catch (const DeviceError& error) {
    return error.what();
  }
}

TEST(Rendezvous, StrangersAreTurnedAwayAndDisturbNobody) {
  const std::uint16_t port = free_port();
  auto root = std::async(std::launch::async, [&] { return answer_to(place(0, 2, port)); });
  EXPECT_THAT(answer_to(place(1, 2, port, "another job")),
              HasSubstr("another job (test) meets at this port"));
  EXPECT_THAT(answer_to(place(1, 3, port)), HasSubstr("started as one of 2, this one as one of 3"));
  {
    // Somebody who speaks another language, and one who announces a gigabyte.
    const auto soon = std::chrono::steady_clock::now() + 1s;
    const auto browser = connect_until("127.0.0.1", port, soon);
    const std::string get = "GET / HTTP/1.1\r\nHost: plumb\r\n\r\n";
    ASSERT_TRUE(browser);
    EXPECT_EQ(write_all(*browser, std::as_bytes(std::span(get)), soon), Io::done);
    const auto liar = connect_until("127.0.0.1", port, soon);
    ASSERT_TRUE(liar);
    const std::array<unsigned char, 16> header{'P', 'L', 'M', 'B', 0,    0,    0,    0,
                                               0,   0,   0,   0,   0xff, 0xff, 0xff, 0x3f};
    EXPECT_EQ(write_all(*liar, std::as_bytes(std::span(header)), soon), Io::done);
  }
  EXPECT_EQ(answer_to(place(1, 2, port)), "met");
  EXPECT_EQ(root.get(), "met");
}

TEST(Rendezvous, APortInUseIsAClearError) {
  const Socket taken = listen_on("127.0.0.1", 0);
  EXPECT_THAT(answer_to(place(0, 2, port_of(taken))),
              HasSubstr("cannot listen on port " + std::to_string(port_of(taken))));
}

TEST(Rendezvous, AnUnknownHostIsBadInput) {
  Placement placement = place(1, 2, 7000);
  placement.host = "no-such-host.invalid";
  EXPECT_THROW(Rendezvous(placement, 500ms), std::runtime_error);
}

TEST(Rendezvous, ListsRanksShortly) {
  EXPECT_EQ(rank_list({2}), "2");
  EXPECT_EQ(rank_list({2, 3}), "2, 3");
  EXPECT_EQ(rank_list({1, 3, 4, 5, 9}), "1, 3 to 5, 9");
}

TEST(Agreement, EverybodyKnowsWhatAnybodyKnewAndTheLowerRankIsRight) {
  const std::vector<std::map<std::string, std::string>> known{
      {}, {{"a", "1"}, {"b", ""}}, {{"b", "2"}, {"c", "two words"}}, {{"a", "3"}, {"d", "4"}}};
  const std::map<std::string, std::string> all{{"a", "1"}, {"b", ""}, {"c", "two words"}, {"d", "4"}};
  const std::vector<std::string> errors = run(4, [&](Rendezvous& rendezvous) -> std::string {
    return agree(rendezvous, known[rendezvous.rank()]) == all ? "" : "another";
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

}  // namespace
}  // namespace plumb
