#include "calibrate/kineto.hpp"

#include "calibrate/lookup.hpp"
#include "schedules/ir/error.hpp"

#include <random>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;

// Writes a profile as PyTorch does: times in microseconds with three decimals, kernels far from their
// launches.
class Profile {
 public:
  explicit Profile(int rank, int ranks = 2) {
    head_ = fmt::format(
        R"({{"schemaVersion":1,"deviceProperties":[{{"id":0,"name":"NVIDIA H100 80GB HBM3","totalGlobalMem":85028896768,"numSms":132}}],)"
        R"("cuda_runtime_version":13000,"distributedInfo":{{"backend":"nccl","rank":{},"world_size":{},"nccl_version":"2.28.3"}},)"
        R"("baseTimeNanoseconds":1712345678000000000,"displayTimeUnit":"ms","traceEvents":[)",
        rank, ranks);
    event(
        R"({"ph":"M","name":"process_name","pid":1,"tid":0,"ts":12.5,"args":{"name":"python","labels":[1,{"deep":[[]]}]}})");
    event(R"({"ph":"i","s":"g","name":"Record Window End","pid":"","tid":"","ts":99.125})");
  }
  Profile& event(const std::string& json) {
    events_ += (events_.empty() ? "" : ",\n") + json;
    return *this;
  }
  /// A label on the CPU, in nanoseconds.
  Profile& label(const std::string& token, std::int64_t begin, std::int64_t end) {
    return event(fmt::format(
        R"({{"ph":"X","cat":"user_annotation","name":"PP:{}","pid":7,"tid":7,"ts":{},"dur":{},"args":{{"External id":3}}}})",
        token, us(begin), us(end - begin)));
  }
  /// A kernel launched at `at` on whatever thread, running from `begin` to `end` on the GPU.
  Profile& kernel(const std::string& name, std::int64_t at, std::int64_t begin, std::int64_t end,
                  const std::string& more = "") {
    const int correlation = ++correlation_;
    kernels_ += fmt::format(
        R"(,{{"ph":"X","cat":"kernel","name":"{}","pid":0,"tid":7,"ts":{},"dur":{},"args":{{"correlation":{},"stream":7{}}}}})",
        name, us(begin), us(end - begin), correlation, more);
    return event(fmt::format(
        R"({{"ph":"X","cat":"cuda_runtime","name":"cudaLaunchKernel","pid":7,"tid":8,"ts":{},"dur":2.125,"args":{{"correlation":{}}}}})",
        us(at), correlation));
  }
  std::string json() const { return head_ + events_ + kernels_ + R"(],"traceName":"t.pt.trace.json"})"; }

 private:
  static std::string us(std::int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }
  std::string head_, events_, kernels_;
  int correlation_ = 100;
};

KinetoTrace read(const std::string& content, const std::string& where = "rank.json") {
  std::istringstream in(content);
  return read_kineto_trace(in, where);
}

std::string refusal(const std::string& content) {
  try {
    read(content);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

std::string gzipped(const std::string& content) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, content.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// Stage `rank` of two: F of 3 kernels, a message, B whose kernels were launched by autograd's own thread.
Profile two_stages(int rank) {
  Profile profile(rank);
  for (int m = 0; m < 3; ++m) {
    const std::int64_t t = 1'000'000 * m;
    const std::string s = std::to_string(rank);
    profile.label(fmt::format("{}F{}", s, m), t, t + 50'000);
    // 100,000 ns with a gap of 5,000 in it, on a GPU that lags 300 us behind.
    profile.kernel("sm90_gemm", t + 10'000, t + 300'000, t + 340'000);
    profile.kernel("gelu", t + 20'000, t + 345'000, t + 370'000);
    profile.kernel("sm90_gemm", t + 30'000, t + 370'000, t + 400'000);
    profile.label(fmt::format("{}{}{}", s, rank == 0 ? "SEND_F" : "RECV_F", m), t + 51'000, t + 60'000);
    // Rank 0's kernel waits 100 us for the receiver in microbatch 0; rank 1's waits 50 us for the sender
    // otherwise.
    const std::int64_t waits = m == 0 ? (rank == 0 ? 100'000 : 0) : (rank == 0 ? 0 : 50'000);
    profile.kernel("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage)", t + 55'000, t + 400'000,
                   t + 430'000 + waits,
                   R"(,"Collective name":"send","In msg nelems":524288,"dtype":"BFloat16")");
    profile.label(fmt::format("{}B{}", s, m), t + 500'000, t + 600'000);
    // A wait of 70 us for the host in the middle is not the backward's.
    profile.kernel("sm90_gemm", t + 510'000, t + 700'000, t + 800'000);
    profile.kernel("sm90_gemm", t + 520'000, t + 870'000, t + 970'000);
  }
  // Nobody's: the optimizer.
  profile.kernel("adam", 5'000'000, 6'000'000, 6'500'000);
  return profile;
}

TEST(Kineto, JoinsKernelsToActionsByTheirLaunches) {
  const KinetoTrace trace = read(two_stages(1).json());
  EXPECT_EQ(trace.rank, 1u);
  EXPECT_EQ(trace.ranks, 2u);
  EXPECT_EQ(trace.gpu, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(trace.sms, 132u);
  EXPECT_EQ(trace.cuda, "13.0");
  EXPECT_EQ(trace.kernels, 19u);
  EXPECT_EQ(trace.outside, 1u);
  ASSERT_EQ(trace.actions.size(), 6u);
  EXPECT_EQ(to_string(trace.actions[0].action), "1F0");
  EXPECT_EQ(trace.actions[0].compute.ns, 100'000) << "from first to last kernel, its small gap included";
  EXPECT_EQ(to_string(trace.actions[1].action), "1B0");
  EXPECT_EQ(trace.actions[1].compute.ns, 200'000) << "without the wait";
  ASSERT_EQ(trace.messages.size(), 3u);
  EXPECT_EQ(to_string(trace.messages[0].op), "1RECV_F0");
  EXPECT_EQ(trace.messages[0].bytes.count, 1 << 20);
}

TEST(Kineto, GzippedOrNotIsTheSame) {
  const std::string json = two_stages(0).json();
  const KinetoTrace plain = read(json);
  const KinetoTrace zipped = read(gzipped(json), "rank.pt.trace.json.gz");
  ASSERT_EQ(zipped.actions.size(), plain.actions.size());
  EXPECT_EQ(zipped.actions.back().compute, plain.actions.back().compute);
  // Two gzip members, as parallel compressors write them.
  const std::string halves = gzipped(json.substr(0, json.size() / 2)) + gzipped(json.substr(json.size() / 2));
  EXPECT_EQ(read(halves).kernels, plain.kernels);
}

TEST(Kineto, TwoRanksGiveDurationsMessagesAndALayer) {
  const Calibration calibration =
      calibration_of({read(two_stages(1).json(), "b"), read(two_stages(0).json(), "a")});
  EXPECT_EQ(calibration.provenance.gpu, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(calibration.model_layers, 2u);
  EXPECT_EQ(calibration.forward.front().duration.ns, 100'000);
  EXPECT_EQ(calibration.backward.front().duration.ns, 200'000);
  EXPECT_EQ(calibration.sources.at("forward"), "measured");
  // Of each message the kernel that waited for nobody: 30,000 ns for 1 MiB, whoever came last.
  ASSERT_EQ(calibration.transfers.size(), 1u);
  EXPECT_EQ(calibration.transfers[0].key.ranks, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(calibration.transfers[0].points[0].time.maximum.ns, 30'000);
  EXPECT_EQ(calibration.activation_message.count, 1 << 20);
  EXPECT_EQ(calibration.sources.at("link"), "measured");
  ASSERT_EQ(calibration.work.size(), 4u);
  EXPECT_EQ(calibration.work[0].time.samples, 3u);
  std::ostringstream out;
  write_calibration(out, calibration);
  EXPECT_EQ(parse_calibration(out.str(), "file"), calibration);
}

TEST(Kineto, StagesThatDifferMakeAMeanAndSaySo) {
  Profile slow(1);
  slow.label("1F0", 0, 1'000).kernel("gemm", 500, 10'000, 310'000);
  Profile quick(0);
  quick.label("0F0", 0, 1'000).kernel("gemm", 500, 10'000, 110'000);
  const Calibration calibration = calibration_of({read(quick.json()), read(slow.json())});
  EXPECT_EQ(calibration.forward.front().duration.ns, 200'000);
  EXPECT_EQ(calibration.sources.at("forward"), "interpolated");
  EXPECT_EQ(calibration.sources.at("link"), "assumed");
}

TEST(Kineto, AnOverlappedPairIsOneMeasurementAndNoneOfItsOps) {
  // PyTorch labels the pair and, inside it, both ops; their kernels run side by side on two streams.
  Profile profile(0, 1);
  profile.label("(0F5;7B3)OVERLAP_F_B", 0, 100'000).label("0F5", 1'000, 40'000).label("7B3", 41'000, 99'000);
  profile.kernel("gemm", 10'000, 200'000, 300'000).kernel("gemm", 50'000, 250'000, 450'000);
  profile.label("0F6", 200'000, 240'000).kernel("gemm", 210'000, 500'000, 590'000);
  const KinetoTrace trace = read(profile.json());
  ASSERT_EQ(trace.actions.size(), 2u);
  EXPECT_EQ(to_string(trace.actions[0].action), "(0F5;7B3)OVERLAP_F_B");
  EXPECT_EQ(trace.actions[0].compute.ns, 250'000);
  EXPECT_EQ(trace.actions[1].compute.ns, 90'000);
  const Calibration calibration = calibration_of({trace});
  EXPECT_EQ(calibration.forward.front().duration.ns, 90'000) << "the forward inside the pair was slowed";
  const WorkKey pair{
      "stage", "profiled", WorkKind::forward_beside_backward, {{"backward_stage", 7}, {"stage", 0}}, ""};
  EXPECT_EQ(find_duration(calibration, pair, {})->duration.ns, 250'000);
}

TEST(Kineto, CommunicationInsideAnActionIsApart) {
  Profile profile(0, 1);
  profile.label("0F0", 0, 50'000);
  profile.kernel("attention", 1'000, 100'000, 140'000);
  profile.kernel("ncclDevKernel_SendRecv(x)", 2'000, 140'000, 200'000, R"(,"Collective name":"all_to_allv")");
  profile.kernel("experts", 3'000, 200'000, 290'000);
  profile.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", 4'000, 290'000, 300'000);
  const KinetoTrace trace = read(profile.json());
  EXPECT_EQ(trace.actions[0].compute.ns, 130'000) << "the 60 us of the exchange are a gap in computation";
  const std::vector<std::pair<std::string, Duration>> expected{{"all_to_all", {60'000}},
                                                               {"all_reduce", {10'000}}};
  EXPECT_EQ(trace.actions[0].communication, expected);
  const Calibration calibration = calibration_of({trace});
  EXPECT_EQ(calibration.classes, (std::vector<std::string>{"compute", "all_reduce", "all_to_all"}));
  ASSERT_EQ(calibration.forward.size(), 3u);
  EXPECT_EQ(calibration.forward[2].name, "all_to_all");
  EXPECT_EQ(calibration.forward[2].lane, Lane::communication);
}

TEST(Kineto, AProfileOfTheCpuAloneTakesTheLabelsOwnTime) {
  Profile profile(0, 1);
  profile.label("0F0", 0, 50'001).label("0B0", 60'000, 160'000).label("0SEND_F0", 170'000, 180'000);
  const KinetoTrace trace = read(profile.json());
  EXPECT_FALSE(trace.on_gpu);
  EXPECT_EQ(trace.actions[0].compute.ns, 50'001);
  EXPECT_TRUE(trace.messages.empty());
  EXPECT_THAT(calibration_of({trace}).provenance.notes.at("device"), HasSubstr("CPU"));
}

TEST(Kineto, TimesAreExactHoweverLongTheMachineHasBeenUp) {
  // As doubles, microseconds since 1970 have steps of a quarter.
  Profile profile(0, 1);
  const std::int64_t epoch = 1'712'345'678'901'234'000;
  profile.label("0F0", epoch, epoch + 50'000);
  profile.kernel("gemm", epoch + 1, epoch + 100'003, epoch + 200'010);
  EXPECT_EQ(read(profile.json()).actions[0].compute.ns, 100'007);
}

TEST(Kineto, RefusesInOneSentence) {
  const std::string good = two_stages(0).json();
  EXPECT_THAT(refusal(""), HasSubstr("rank.json: is empty"));
  EXPECT_THAT(refusal(gzipped("")), HasSubstr("rank.json: is empty"));
  EXPECT_THAT(refusal(" "), HasSubstr("is cut off"));
  EXPECT_THAT(refusal(Profile(2).label("0F0", 0, 9).json()), HasSubstr("of rank 2 of 2"));
  EXPECT_THAT(refusal("hello"), HasSubstr("is not JSON"));
  EXPECT_THAT(refusal(good.substr(0, good.size() / 2)), HasSubstr("is cut off: it ends at byte"));
  EXPECT_THAT(refusal(gzipped(good).substr(0, 500)), HasSubstr("is cut off: its gzip stream has no end"));
  std::string damaged = gzipped(good);
  damaged[200] ^= 0x55;
  damaged[201] ^= 0x55;
  EXPECT_THAT(refusal(damaged), HasSubstr("damaged"));
  EXPECT_THAT(refusal(R"({"traceEvents":[]})"), HasSubstr("no action labelled PP:"));
  EXPECT_THAT(refusal(R"({"traceEvents":{"a":[]}})"), HasSubstr("no action labelled PP:"));
  EXPECT_THAT(refusal(std::string(100'000, '[')), HasSubstr("nested deeper than 64"));
  EXPECT_THAT(refusal(R"([{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":-5,"args":{}}])"),
              HasSubstr("negative"));
  EXPECT_THAT(refusal(R"([{"ph":"X","cat":"kernel","name":"k","ts":"now","dur":5}])"),
              HasSubstr("\"ts\" is a text"));
  EXPECT_THAT(refusal(R"([{"ph":"X","cat":"kernel","name":"k","ts":1e300,"dur":5}])"),
              HasSubstr("out of range"));
  EXPECT_THAT(refusal(R"([{"ph":"X","cat":"kernel","name":"k","ts":18446744073709551615,"dur":5}])"),
              HasSubstr("out of range"));
}

// Merged for a viewer: correlation ids of two processes are the same numbers, and so one's kernels would
// count for the other's actions.
TEST(Kineto, TwoRanksInOneFileAreRefused) {
  Profile merged = two_stages(0);
  EXPECT_EQ(refusal(merged.json()), "accepted");
  merged.event(R"({"ph":"X","cat":"user_annotation","name":"PP:1F0","pid":8,"tid":8,"ts":10,"dur":50})");
  EXPECT_THAT(refusal(merged.json()), HasSubstr("actions of two processes, 7 and 8: give each rank's own"));
}

TEST(Kineto, WhatJsonForbidsAndProfilesHoldIsReadAllTheSame) {
  Profile profile = two_stages(0);
  const std::string good = profile.json();
  // A copy that took no time; a module's name in bytes of another alphabet, and with control characters.
  profile.event(
      R"x({"ph":"X","cat":"gpu_memcpy","name":"Memcpy HtoD","pid":0,"ts":1,"dur":0,"args":{"bytes":200,)x"
      R"x("memory bandwidth (GB/s)":inf,"a":-inf,"b":NaN,"c":-Infinity,"d":nan}})x");
  profile.event(R"({"ph":"X","cat":"python_function","name":"config.py(0): )" + std::string("\xff\x01\n") +
                R"(\"","ts":1,"dur":0})");
  const KinetoTrace mended = read(profile.json());
  EXPECT_EQ(mended.actions.size(), read(good).actions.size());
  EXPECT_EQ(mended.unjoined, 1u) << "the copy";
  // Wherever the blocks end that it is read in, the longest word too.
  for (std::size_t shift = 65'500; shift < 65'540; ++shift) {
    const std::string padded =
        std::string(shift, ' ') + R"([-Infinity,nan,null,true,"inf",-1e-5,)" + good + "]";
    EXPECT_THAT(refusal(padded), HasSubstr("no action labelled")) << shift;
  }
  EXPECT_THAT(refusal("[-infinit]"), HasSubstr("is not JSON"));
}

TEST(Kineto, KernelsWithoutLaunchesAreRefused) {
  const std::string label = R"({"ph":"X","cat":"user_annotation","name":"PP:0F0","ts":0,"dur":50})";
  EXPECT_THAT(refusal("[" + label +
                      R"(,{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":5,"args":{"correlation":4}}])"),
              HasSubstr("1 of its 1 kernels have no launch"));
  EXPECT_THAT(refusal("[" + label + R"(,{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":5}])"),
              HasSubstr("no launch with their correlation id"));
  // Launched before the label began.
  EXPECT_THAT(
      refusal("[" + label +
              R"(,{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":5,"args":{"correlation":4}})"
              R"(,{"ph":"X","cat":"cuda_runtime","name":"l","ts":-10,"dur":5,"args":{"correlation":4}}])"),
      HasSubstr("no kernel was launched inside one"));
}

TEST(Kineto, ATokenThatWouldFillTheMemoryIsRefused) {
  // An endless text, made as it is read.
  class Endless : public std::streambuf {
   protected:
    int_type underflow() override {
      if (began_) {
        std::fill(buffer_.begin(), buffer_.end(), 'x');
      } else {
        std::fill(buffer_.begin(), buffer_.end(), ' ');
        buffer_[0] = '[';
        buffer_[1] = '"';
      }
      began_ = true;
      setg(buffer_.data(), buffer_.data(), buffer_.data() + buffer_.size());
      return traits_type::to_int_type(buffer_[0]);
    }

   private:
    std::vector<char> buffer_ = std::vector<char>(1 << 16);
    bool began_ = false;
  } endless;
  std::istream in(&endless);
  EXPECT_THROW(read_kineto_trace(in, "endless"), BadInput);
}

TEST(Kineto, TracesThatDoNotBelongTogetherAreRefused) {
  const KinetoTrace trace = read(two_stages(0).json(), "a");
  KinetoTrace twin = trace;
  twin.where = "b";
  const auto why = [](const std::vector<KinetoTrace>& traces) -> std::string {
    try {
      calibration_of(traces);
    } catch (const BadInput& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(why({trace, twin}), HasSubstr("b: is of rank 0, and so is a"));
  twin.rank = 1;
  twin.gpu = "NVIDIA H200";
  EXPECT_THAT(why({trace, twin}), HasSubstr("b: was recorded on NVIDIA H200"));
  EXPECT_THAT(why({}), HasSubstr("no trace"));
}

TEST(Kineto, AnyByteChangedIsReadOrRefusedAndNothingElse) {
  const std::string good = two_stages(0).json();
  const std::string zipped = gzipped(good);
  std::mt19937 random(3);
  int refused = 0;
  for (int k = 0; k < 1'500; ++k) {
    std::string content = k % 3 == 0 ? zipped : good;
    const std::size_t place = random() % content.size();
    switch (random() % 3) {
      case 0:
        content[place] = static_cast<char>(random() % 256);
        break;
      case 1:
        content.erase(place, 1 + random() % 60);
        break;
      default:
        content.resize(place);
    }
    const std::string answer = refusal(content);
    refused += answer != "accepted";
    EXPECT_EQ(answer.find('\n'), std::string::npos) << answer;
  }
  EXPECT_GT(refused, 700);
}

}  // namespace
}  // namespace plumb
