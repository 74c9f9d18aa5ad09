// A connection between every two ranks of a rendezvous, for what is too big or too urgent to go through rank
// 0.
#pragma once
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/bootstrap/socket.hpp"

#include <vector>

namespace plumb {

/// All ranks together. [rank] the connection to it; this rank's own place is not open. Throws DeviceError
/// that names who has not connected within the rendezvous's deadline.
std::vector<Socket> connect_all(Rendezvous& rendezvous);

}  // namespace plumb
