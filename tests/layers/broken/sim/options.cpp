// Breaks the layers on purpose.
#include "schedules/generators/generator.hpp"

#include <CLI/CLI.hpp>
#include <boost/graph/adjacency_list.hpp>
