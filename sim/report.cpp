#include "sim/report.hpp"

namespace plumb {

std::string_view to_string(IdleCause cause) {
  constexpr std::array<std::string_view, idle_causes> names{"warm_up", "waiting_for_message", "imbalance",
                                                            "exposed_communication", "drain"};
  return names[static_cast<std::size_t>(cause)];
}

}  // namespace plumb
