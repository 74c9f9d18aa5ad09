// What a run needs to go on, on disk: weights and the optimizer's moments by parameter name, so that a run
// may go on cut into other stages than before.
//
//   FOLDER/step-00000012/stage-0003.plumb    a text header, the numbers, a checksum of both
//
// A checkpoint is written as step-00000012.part beside the others, flushed to the disk and renamed when all
// of it is there: whatever happens in between, what is called a checkpoint is a whole one.
#pragma once
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace plumb {

/// Together. Of the state after the `step`-th step; the two newest checkpoints are kept. Throws BadInput with
/// what the system says on the rank that cannot write, after what was written of it has been removed; the
/// others return, and learn of it where they meet that rank again.
void save_checkpoint(Worker& worker, const TrainingPlan& plan, const std::string& folder, std::uint64_t step);

/// Makes the folder where it is missing, and takes away what an earlier job left unfinished. Throws BadInput
/// where it cannot hold checkpoints: better before the first step than after the thousandth.
void prepare_checkpoints(const std::string& folder);

/// Takes away what a job that was killed had begun to write. While none writes there.
void remove_unfinished_checkpoints(const std::string& folder);

/// The step of the newest checkpoint in the folder, if there is one.
std::optional<std::uint64_t> latest_checkpoint(const std::string& folder);

/// Looks at the newest checkpoint, headers and sizes alone, before anything that takes long: returns its
/// step. Throws BadInput that names the file: cut short, of another seed, or without a parameter that the
/// plan's model has, or with another size of it.
std::uint64_t check_checkpoint(const TrainingPlan& plan, const std::string& folder);

/// Takes up the newest checkpoint: returns its step. Throws BadInput as check_checkpoint does, and where the
/// content of a file that it needs is damaged. Reads no other files.
std::uint64_t load_checkpoint(Worker& worker, const TrainingPlan& plan, const std::string& folder);

}  // namespace plumb
