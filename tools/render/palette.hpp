// What the pictures share: the field's colours (forward orange, backward green, backward-input light green,
// backward-weight blue) and the shade that tells a rank's directions or chunks apart.
#pragma once
#include "schedules/ir/op.hpp"
#include "schedules/ir/schedule.hpp"
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::render {

inline constexpr std::uint32_t shades = 4;

/// `#f59b42`: of a compute op. Dark text (`ink`) can be read on all of them.
std::string_view fill(OpKind kind, std::uint32_t shade);
inline constexpr std::string_view ink = "#1b1f24";

/// The ANSI 256-colour number of the same.
int ansi_fill(OpKind kind, std::uint32_t shade);

/// Of a stretch without computation, in charts; white text can be read on none but `light` needs none.
std::string_view fill(IdleCause cause);
/// `waiting for message`: a cause for people.
std::string words(IdleCause cause);

/// Which shade an op takes. Where microbatches enter the pipeline on different ranks (DualPipe, Chimera) the
/// direction decides, in order of first appearance by microbatch; otherwise the chunk: the stage's place
/// among the stages of its rank.
class Shading {
 public:
  explicit Shading(const Schedule& schedule);
  explicit Shading(const Timeline& timeline);

  std::uint32_t of(Rank rank, const Op& op) const;
  /// What the shades in use mean: `direction 1`, `direction 2` or `chunk 1` …; empty where there is one only.
  const std::vector<std::string>& names() const { return names_; }
  /// Whether the rank holds more than one stage, so that a label needs the stage.
  bool several_stages(Rank rank) const { return stages_[rank.value].size() > 1; }

 private:
  void add(Rank rank, const Op& op);
  void finish(std::uint32_t microbatches);

  std::vector<std::vector<std::uint32_t>> stages_;  // [rank], ascending
  std::vector<std::uint32_t> entry_;                // [microbatch] rank of its first forward, then direction
  bool by_direction_ = false;
  std::vector<std::string> names_;
};

}  // namespace plumb::render
