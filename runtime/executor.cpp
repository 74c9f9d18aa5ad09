#include "runtime/executor.hpp"

#include <variant>

namespace plumb {

void execute(const RankProgram& program, Backend& backend) {
  struct Launch {
    Backend& backend;
    void operator()(const ComputeStep& step) { backend.compute(step); }
    void operator()(const CommStep& step) { backend.communicate(step); }
    void operator()(const ReduceStep& step) { backend.reduce(step); }
  };
  backend.begin_step();
  for (const ProgramStep& step : program.steps) std::visit(Launch{backend}, step);
  backend.finish_step();
}

}  // namespace plumb
