// Keeps to the layers, beside files that don't.
#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include "sim/report.hpp"
