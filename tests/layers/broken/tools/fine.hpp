// Keeps to the layers, beside files that don't.
#pragma once
#include "sim/report.hpp"

#include <CLI/CLI.hpp>
