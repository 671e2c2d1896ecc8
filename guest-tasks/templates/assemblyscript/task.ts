// Tasks. `lovage build` makes a component of this module.

import { Job, Outcome, Task, progress, serve } from "./lovage";

serve([new Task("my_task", "Doubles a number.", doubled)]);

function doubled(job: Job): Outcome {
  const twice = 2 * job.number;
  if (isNaN(twice)) return Outcome.reject("a number is needed");
  if (!isFinite(twice)) return Outcome.reject("the number is too large to be doubled");
  progress(100, "doubled");
  return Outcome.json(twice.toString());
}
