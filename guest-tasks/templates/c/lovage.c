// See lovage.h. Memory that goes to the host is from malloc, and freed by the bindings.

#include "lovage.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void *copy(const void *data, size_t len) {
  void *made = malloc(len ? len : 1);
  if (!made) {
    abort();
  }
  memcpy(made, data, len);
  return made;
}

static lovage_task_string_t string(const char *text) {
  size_t len = strlen(text);
  return (lovage_task_string_t){copy(text, len), len};
}

static lovage_task_string_t formatted(const char *format, va_list arguments) {
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  return string(text);
}

bool lovage_bytes(lovage_output *output, const char *content_type, const void *data, size_t len) {
  output->content_type = string(content_type);
  output->data.ptr = copy(data, len);
  output->data.len = len;
  return true;
}

bool lovage_json(lovage_output *output, const char *json) {
  return lovage_bytes(output, "application/json", json, strlen(json));
}

bool lovage_number(lovage_output *output, double number) {
  char text[32];
  // The shortest that reads as the same number.
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, number);
    if (strtod(text, NULL) == number) {
      break;
    }
  }
  return lovage_json(output, text);
}

bool lovage_reject(lovage_error *error, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error->tag = LOVAGE_TASK_TYPES_TASK_ERROR_REJECT;
  error->val.reject = formatted(format, arguments);
  va_end(arguments);
  return false;
}

bool lovage_fail(lovage_error *error, const char *kind, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error->tag = LOVAGE_TASK_TYPES_TASK_ERROR_FAIL;
  error->val.fail.kind = string(kind);
  error->val.fail.message = formatted(format, arguments);
  error->val.fail.detail.is_some = false;
  va_end(arguments);
  return false;
}

bool lovage_retry(lovage_error *error, int64_t after_ms, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error->tag = LOVAGE_TASK_TYPES_TASK_ERROR_RETRY;
  error->val.retry.reason = formatted(format, arguments);
  error->val.retry.after.is_some = after_ms >= 0;
  error->val.retry.after.val = (uint64_t)after_ms;
  va_end(arguments);
  return false;
}

bool lovage_snooze(lovage_error *error, uint64_t ms) {
  error->tag = LOVAGE_TASK_TYPES_TASK_ERROR_SNOOZE;
  error->val.snooze = ms;
  return false;
}

void lovage_progress(uint8_t percent, const char *message) {
  lovage_task_string_t text = {(uint8_t *)message, strlen(message)};
  lovage_task_progress_report(percent, &text);
}

static bool is_json(const lovage_task_string_t *content_type) {
  const char *json = "application/json";
  size_t len = strlen(json);
  return content_type->len >= len && strncasecmp((char *)content_type->ptr, json, len) == 0 &&
         (content_type->len == len || strchr("; ", content_type->ptr[len]));
}

bool lovage_read_number(const lovage_invocation *job, double *number) {
  // A number that is longer is taken for none.
  char text[400];
  if (!is_json(&job->content_type) || job->payload.len >= sizeof text) {
    return false;
  }
  memcpy(text, job->payload.ptr, job->payload.len);
  text[job->payload.len] = 0;
  const char *start = text + strspn(text, " \t\r\n");
  // strtod takes more than JSON does: hexadecimal numbers, names, a plus, a bare point.
  const char *digits = start + (*start == '-');
  if (!isdigit((unsigned char)*digits) || (*digits == '0' && isalnum((unsigned char)digits[1]) &&
                                           digits[1] != 'e' && digits[1] != 'E')) {
    return false;
  }
  char *end;
  *number = strtod(start, &end);
  return end[-1] != '.' && !strstr(start, ".e") && !strstr(start, ".E") &&
         end[strspn(end, " \t\r\n")] == 0 && (size_t)(end - text) <= job->payload.len;
}

static bool same(const lovage_task_string_t *string, const char *text) {
  return string->len == strlen(text) && memcmp(string->ptr, text, string->len) == 0;
}

void exports_lovage_task_handler_describe(exports_lovage_task_handler_list_task_spec_t *specs) {
  specs->len = lovage_tasks_count;
  specs->ptr = calloc(lovage_tasks_count, sizeof *specs->ptr);
  if (!specs->ptr) {
    abort();
  }
  for (size_t i = 0; i < lovage_tasks_count; i++) {
    const lovage_task_t *task = &lovage_tasks[i];
    exports_lovage_task_handler_task_spec_t *spec = &specs->ptr[i];
    spec->name = string(task->name);
    spec->description = string(task->description);
    spec->max_attempts.is_some = task->max_attempts > 0;
    spec->max_attempts.val = task->max_attempts;
    spec->timeout.is_some = task->timeout_ms > 0;
    spec->timeout.val = task->timeout_ms;
  }
}

bool exports_lovage_task_handler_run(lovage_invocation *job, lovage_output *output,
                                     lovage_error *error) {
  for (size_t i = 0; i < lovage_tasks_count; i++) {
    if (same(&job->task, lovage_tasks[i].name)) {
      return lovage_tasks[i].run(job, output, error);
    }
  }
  return lovage_reject(error, "there is no such task here");
}
