// The pieces that plumb.costs/1 and plumb.calibration/1 share: classes, slowdown, segments, links.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/json_document.hpp"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// The class that the string names. All readers here throw BadInput with the JSON pointer.
WorkClass read_class(const JsonView& name, const std::vector<std::string>& classes);

/// A square table of factors in millionths, none below 1,000,000; empty where it has no rows.
std::vector<std::vector<std::uint32_t>> read_slowdown(const JsonView& rows,
                                                      const std::vector<std::string>& classes);

/// A list of segments; the lane is `compute` and the class the first where they are not given.
std::vector<Segment> read_segments(const JsonView& list, const std::vector<std::string>& classes);

/// "latency_ns" and "bytes_per_s", either of which may be missing (0, and infinite). Members that are not in
/// `keys` are refused.
Link read_link(const JsonView& view,
               std::initializer_list<std::string_view> keys = {"latency_ns", "bytes_per_s"});

}  // namespace plumb
