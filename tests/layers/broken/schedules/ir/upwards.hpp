// Breaks the layers on purpose: the test of tests/layers.cmake expects line 5 and line 6 to be named.
#pragma once
#include "schedules/ir/op.hpp"
#include <vector>
#include "sim/simulate.hpp"
#include <nlohmann/json.hpp>
#include <CLI/CLI.hpp>
