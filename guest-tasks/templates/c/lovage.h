// Tasks as functions: bytes in, bytes out. A thin layer over the contract in wit/; change it as you
// like. Types and functions of the contract are in lovage_task.h, which `lovage build` makes.

#ifndef LOVAGE_H
#define LOVAGE_H

#include "lovage_task.h"

// One attempt at one job: id, task, tenant, attempt, deadline, headers, payload and so on.
typedef exports_lovage_task_handler_invocation_t lovage_invocation;
typedef exports_lovage_task_handler_output_t lovage_output;
typedef exports_lovage_task_handler_task_error_t lovage_error;

// A task. `run` gives what one of the functions below gives; 0 attempts or milliseconds say
// nothing, else they advise the host.
typedef struct {
  const char *name;
  const char *description;
  bool (*run)(lovage_invocation *job, lovage_output *output, lovage_error *error);
  uint32_t max_attempts;
  uint64_t timeout_ms;
} lovage_task_t;

// The tasks of this component; defined by it.
extern const lovage_task_t lovage_tasks[];
extern const size_t lovage_tasks_count;

// Ends a task with JSON, a text that is copied.
bool lovage_json(lovage_output *output, const char *json);

// Ends a task with a number, written as JSON. It has to be finite.
bool lovage_number(lovage_output *output, double number);

// Ends a task with bytes of a media type, which are copied.
bool lovage_bytes(lovage_output *output, const char *content_type, const void *data, size_t len);

// Ends a task: the payload is not what it takes. Never tried again. The text is made as by printf.
__attribute__((format(printf, 2, 3))) bool lovage_reject(lovage_error *error, const char *format, ...);

// Ends a task: it failed and would fail again. `kind` is for programs, the text for people.
__attribute__((format(printf, 3, 4))) bool lovage_fail(lovage_error *error, const char *kind,
                                                       const char *format, ...);

// Ends a task: it is to be tried again after so many milliseconds; by the host's own measure when
// they are negative. Spends an attempt.
__attribute__((format(printf, 3, 4))) bool lovage_retry(lovage_error *error, int64_t after_ms,
                                                        const char *format, ...);

// Ends a task: it is to come back after so many milliseconds. Spends no attempt.
bool lovage_snooze(lovage_error *error, uint64_t ms);

// Says how far the attempt is, in percent. Whether it should end is
// `lovage_task_progress_is_revoked()`.
void lovage_progress(uint8_t percent, const char *message);

// Reads a payload that is one JSON number; false when it is anything else.
bool lovage_read_number(const lovage_invocation *job, double *number);

#endif
