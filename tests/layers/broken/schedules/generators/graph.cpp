// Breaks the layers on purpose.
#include <boost/graph/adjacency_list.hpp>
# include "tools/options.hpp"
#include "sibling.hpp"
