#include "runtime/bootstrap/launcher.hpp"

#include "schedules/ir/error.hpp"

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string, std::less<>>;

constexpr std::int64_t parent = 4242;

Placement found(const Variables& variables, const PlacementFlags& flags = {}) {
  return discover(
      flags,
      [&](std::string_view name) -> std::optional<std::string> {
        const auto at = variables.find(name);
        return at == variables.end() ? std::nullopt : std::optional(at->second);
      },
      parent);
}

std::string refusal(const Variables& variables, const PlacementFlags& flags = {}) {
  try {
    found(variables, flags);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

const Variables torchrun{{"RANK", "5"},
                         {"WORLD_SIZE", "8"},
                         {"LOCAL_RANK", "1"},
                         {"LOCAL_WORLD_SIZE", "4"},
                         {"MASTER_ADDR", "node7"},
                         {"MASTER_PORT", "29500"},
                         {"TORCHELASTIC_RUN_ID", "run-1"}};
const Variables open_mpi{{"OMPI_COMM_WORLD_RANK", "2"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                         {"OMPI_MCA_orte_hnp_uri", "4213243904.0;tcp://172.17.0.2,10.0.0.2:41355"},
                         {"PMIX_NAMESPACE", "4213243905"}};
const Variables slurm{{"SLURM_PROCID", "3"},
                      {"SLURM_STEP_NUM_TASKS", "4"},
                      {"SLURM_LOCALID", "1"},
                      {"SLURM_STEP_ID", "0"},
                      {"SLURM_STEP_NUM_NODES", "2"},
                      {"SLURM_JOB_ID", "77"},
                      {"SLURM_STEP_NODELIST", "gpu[03-05,9]"}};

TEST(Launcher, NobodyStartedASingleRank) {
  EXPECT_EQ(found({}), (Placement{0, 1, 0, 1, "single", "", 0, ""}));
}

TEST(Launcher, TorchrunHoldsItsPortSoTheNextOneIsTaken) {
  EXPECT_EQ(found(torchrun), (Placement{5, 8, 1, 4, "torchrun", "node7", 29501, "run-1"}));
}

TEST(Launcher, OpenMpiMeetsWhereMpirunRuns) {
  const Placement placement = found(open_mpi);
  EXPECT_EQ(placement.launcher, "Open MPI");
  EXPECT_EQ(placement.rank, 2u);
  EXPECT_EQ(placement.local_ranks, 2u);
  EXPECT_EQ(placement.host, "172.17.0.2");
  EXPECT_EQ(placement.job, "4213243905");
  EXPECT_GE(placement.port, 21'000);
  EXPECT_LT(placement.port, 31'000);
}

TEST(Launcher, PmiOnOneMachineMeetsAtHomeAndIsNamedByItsParent) {
  const Placement placement =
      found({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}});
  EXPECT_EQ(placement.launcher, "PMI");
  EXPECT_EQ(placement.host, "127.0.0.1");
  EXPECT_EQ(placement.job, "parent 4242");
}

TEST(Launcher, PmiOnSeveralMachinesNeedsToBeTold) {
  const Variables variables{
      {"PMI_RANK", "1"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};
  EXPECT_THAT(refusal(variables), HasSubstr("MASTER_ADDR: is not set, and PMI does not say"));
  Variables told = variables;
  told["MASTER_ADDR"] = "node1";
  EXPECT_EQ(found(told).host, "node1");
}

TEST(Launcher, SlurmIsBelievedInsideAStepOnly) {
  const Placement placement = found(slurm);
  EXPECT_EQ(placement.launcher, "Slurm");
  EXPECT_EQ(placement.rank, 3u);
  EXPECT_EQ(placement.ranks, 4u);
  EXPECT_EQ(placement.host, "gpu03");
  EXPECT_EQ(placement.job, "77.0");
  // A plain batch script has SLURM_PROCID=0 and runs alone.
  Variables script = slurm;
  script.erase("SLURM_STEP_ID");
  EXPECT_EQ(found(script).launcher, "single");
  Variables one_node = slurm;
  one_node["SLURM_STEP_NUM_NODES"] = "1";
  EXPECT_EQ(found(one_node).host, "127.0.0.1");
}

TEST(Launcher, TheOrderIsFlagsTorchrunOpenMpiPmiSlurm) {
  Variables all = slurm;
  EXPECT_EQ(found(all).launcher, "Slurm");
  all.insert({{"PMI_RANK", "0"}, {"PMI_SIZE", "4"}});
  EXPECT_EQ(found(all).launcher, "PMI");
  all.insert(open_mpi.begin(), open_mpi.end());
  EXPECT_EQ(found(all).launcher, "Open MPI");
  all.insert(torchrun.begin(), torchrun.end());
  EXPECT_EQ(found(all).launcher, "torchrun");
  const Placement placement = found(all, {.rank = 1, .ranks = 3, .local_rank = {}, .rendezvous = "host:700"});
  EXPECT_EQ(placement.launcher, "flags");
  EXPECT_EQ(placement.host, "host");
  EXPECT_EQ(placement.port, 700);
  EXPECT_EQ(placement.job, "host:700");
}

TEST(Launcher, HalfALauncherIsNone) {
  EXPECT_EQ(found({{"RANK", "3"}}).launcher, "single");
  EXPECT_EQ(found({{"WORLD_SIZE", "3"}, {"PMI_RANK", "0"}, {"PMI_SIZE", "1"}}).launcher, "PMI");
}

TEST(Launcher, NonsenseIsRefusedByName) {
  EXPECT_THAT(refusal({{"RANK", "x"}, {"WORLD_SIZE", "8"}}),
              HasSubstr("RANK: is 'x', expected a number from 0 to 7"));
  EXPECT_THAT(refusal({{"RANK", "8"}, {"WORLD_SIZE", "8"}}), HasSubstr("from 0 to 7"));
  EXPECT_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), HasSubstr("WORLD_SIZE"));
  EXPECT_THAT(refusal({{"RANK", "-1"}, {"WORLD_SIZE", "8"}}), HasSubstr("RANK"));
  Variables port = torchrun;
  port["MASTER_PORT"] = "99999";
  EXPECT_THAT(refusal(port), HasSubstr("MASTER_PORT"));
  EXPECT_THAT(refusal({}, {.rank = 3, .ranks = 3, .local_rank = {}, .rendezvous = ""}),
              HasSubstr("counted from 0"));
  EXPECT_THAT(refusal({}, {.rank = 0, .ranks = {}, .local_rank = {}, .rendezvous = ""}),
              HasSubstr("--ranks"));
  EXPECT_THAT(refusal({}, {.rank = 0, .ranks = 2, .local_rank = {}, .rendezvous = ""}),
              HasSubstr("--rendezvous"));
  EXPECT_THAT(refusal({}, {.rank = 0, .ranks = 2, .local_rank = {}, .rendezvous = "7000"}),
              HasSubstr("HOST:PORT"));
}

TEST(Launcher, TwoJobsMeetAtDifferentPorts) {
  Variables other = slurm;
  other["SLURM_JOB_ID"] = "78";
  EXPECT_NE(found(slurm).port, found(other).port);
  EXPECT_EQ(found(slurm).port, found(slurm).port);
}

TEST(Launcher, ReadsSlurmsNodeLists) {
  EXPECT_EQ(first_host("gpu03"), "gpu03");
  EXPECT_EQ(first_host("gpu03,gpu05"), "gpu03");
  EXPECT_EQ(first_host("gpu[03-05,9],login"), "gpu03");
  EXPECT_EQ(first_host("gpu[7,9]"), "gpu7");
  EXPECT_EQ(first_host("rack[1-2]-gpu"), "rack1-gpu");
  EXPECT_EQ(first_host("rack[1-2]-gpu,x"), "rack1-gpu");
  EXPECT_EQ(first_host(""), "");
}

}  // namespace
}  // namespace plumb
