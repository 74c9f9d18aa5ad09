# The folder `broken` holds one breach of each kind: the check has to fail there, and to name exactly these.
set(expected
"schedules/generators/graph.cpp:2: boost only in sim: #include <boost/graph/adjacency_list.hpp>
schedules/generators/graph.cpp:3: schedules/generators may not include tools: # include \"tools/options.hpp\"
schedules/generators/graph.cpp:4: quotes are for our own headers, written from the repository's root: #include \"sibling.hpp\"
schedules/ir/upwards.hpp:5: schedules/ir may not include sim: #include \"sim/simulate.hpp\"
schedules/ir/upwards.hpp:6: nlohmann stays out of headers: #include <nlohmann/json.hpp>
schedules/ir/upwards.hpp:7: CLI only in tools: #include <CLI/CLI.hpp>
schedules/other/unknown.hpp:1: its folder is not in the table of tests/layers.cmake
sim/options.cpp:2: sim may not include schedules/generators: #include \"schedules/generators/generator.hpp\"
sim/options.cpp:4: CLI only in tools: #include <CLI/CLI.hpp>
")
execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${CMAKE_CURRENT_LIST_DIR}/broken -P ${CMAKE_CURRENT_LIST_DIR}/../layers.cmake
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE error)
string(REGEX REPLACE "CMake Error.*" "" error "${error}")
if(result EQUAL 0)
  message(FATAL_ERROR "the check passed a tree that breaks the layers")
endif()
if(NOT error STREQUAL expected)
  message(FATAL_ERROR "expected\n${expected}but the check said\n${error}")
endif()
