// Targets and measurements as text, for the way between the processes of one calibration.
#pragma once
#include "calibrate/measurement.hpp"
#include "calibrate/statistics.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace plumb::ranks {

struct Order {
  std::vector<Target> targets;  // several: in turns
  StoppingRule rule;
  bool operator==(const Order&) const = default;
};

/// The readers give back what was written, and throw BadInput where it was not.
std::string to_message(const Order& order);
Order read_order(std::string_view message);
std::string to_message(const std::vector<Measurement>& measured);
std::vector<Measurement> read_measured(std::string_view message);

}  // namespace plumb::ranks
