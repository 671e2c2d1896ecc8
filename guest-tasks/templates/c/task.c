// Tasks. `lovage build` makes a component of all .c files here and in src.

#include <math.h>

#include "lovage.h"

static bool doubled(lovage_invocation *job, lovage_output *output, lovage_error *error) {
  double number;
  if (!lovage_read_number(job, &number)) {
    return lovage_reject(error, "a number is needed");
  }
  if (!isfinite(2 * number)) {
    return lovage_reject(error, "%g is too large to be doubled", number);
  }
  lovage_progress(100, "doubled");
  return lovage_number(output, 2 * number);
}

const lovage_task_t lovage_tasks[] = {
    {.name = "my_task", .description = "Doubles a number.", .run = doubled},
};
const size_t lovage_tasks_count = sizeof lovage_tasks / sizeof *lovage_tasks;
