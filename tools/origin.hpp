// What can be said of this run of the program: its version and commit, command, environment, and when.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace plumb::tools {

struct Origin {
  std::string version;
  std::string
      commit;  // with `-dirty` where files had been changed; empty where it was built outside of a clone
  std::vector<std::string> argv;
  std::map<std::string, std::string> environment;  // what changes a measurement: CUDA_*, NCCL_*, PLUMB_*
  std::string host;
  std::string time;  // `2026-11-24T08:14:23Z`
};
Origin origin();

/// Of the tree that the program was built from; written by the build.
std::string build_commit();

}  // namespace plumb::tools
