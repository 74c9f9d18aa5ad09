// What ranks that decided apart decide alike.
#pragma once
#include <map>
#include <string>

namespace plumb {

class Rendezvous;

/// Everything that any rank knows, on every rank: where two know different things under one name, the lower
/// rank's holds. Names and values have no tabs and no ends of lines. A call of the rendezvous: by all,
/// together.
std::map<std::string, std::string> agree(Rendezvous& rendezvous,
                                         const std::map<std::string, std::string>& own);

}  // namespace plumb
