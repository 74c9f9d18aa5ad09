// What becomes of the fake device's messages.
#pragma once

namespace plumb::test {

/// From now on every communicator finds that the other side is gone, without knowing who that is.
void let_connections_break(bool broken);

}  // namespace plumb::test
