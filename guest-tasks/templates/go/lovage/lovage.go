// Package lovage has tasks as functions: JSON in, JSON out. It is a thin layer over the contract in
// wit/; change it as you like.
package lovage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"
)

// Job is one attempt at one job.
type Job struct {
	ID                   string // the same at each attempt: the idempotency key
	Task                 string
	Tenant               string
	Attempt, MaxAttempts uint32    // from 1
	Deadline             time.Time // when the host stops the task
	RootID               string
	ParentID             string // empty where no job asked for this one
	Headers              [][2]string
	ContentType          string
	Payload              []byte
}

// Progress says how far the attempt is.
func (*Job) Progress(percent uint8, message string) { report(percent, message) }

// IsRevoked says whether the attempt should end.
func (*Job) IsRevoked() bool { return isRevoked() }

// Raw is bytes with their media type: as a task's input it takes any payload, as its output it is
// given as it is.
type Raw struct {
	ContentType string
	Data        []byte
}

// Spec describes a task beyond its name; numbers that are not zero advise the host.
type Spec struct {
	Name, Description         string
	InputSchema, OutputSchema string // JSON Schema
	MaxAttempts               uint32
	Timeout                   time.Duration
}

type task struct {
	spec Spec
	run  func(*Job) (Raw, error)
}

var tasks []task

// Task adds a task to the component, in an init function.
func Task[In, Out any](name, description string, run func(*Job, In) (Out, error)) {
	TaskWith(Spec{Name: name, Description: description}, run)
}

// TaskWith is Task for those that say more.
func TaskWith[In, Out any](spec Spec, run func(*Job, In) (Out, error)) {
	tasks = append(tasks, task{spec, func(job *Job) (Raw, error) {
		var in In
		if err := read(job, &in); err != nil {
			return Raw{}, err
		}
		out, err := run(job, in)
		if err != nil {
			return Raw{}, err
		}
		if raw, is := any(out).(Raw); is {
			return raw, nil
		}
		data, err := json.Marshal(out)
		return Raw{"application/json", data}, err
	}})
}

func read(job *Job, in any) error {
	if raw, is := in.(*Raw); is {
		*raw = Raw{job.ContentType, job.Payload}
		return nil
	}
	kind, _, _ := mime.ParseMediaType(job.ContentType)
	if kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return Reject("the payload is `%s`, and this task takes `application/json`", job.ContentType)
	}
	// Of `null` Go would make whatever is zero.
	if bytes.Equal(bytes.TrimSpace(job.Payload), []byte("null")) {
		if _, takesAny := in.(*any); !takesAny {
			return Reject("the payload is null")
		}
	}
	if err := json.Unmarshal(job.Payload, in); err != nil {
		return Reject("the payload does not fit: %v", err)
	}
	return nil
}

// Error is how a task ends without a result. Any other error is as good as Fail: its type is the
// kind.
type Error struct {
	tag                   uint8 // as in the contract's task-error
	kind, message, detail string
	after                 time.Duration // negative for none
}

func (e *Error) Error() string { return e.message }

// Reject says that the payload is not what the task takes. Never tried again.
func Reject(format string, arguments ...any) *Error {
	return &Error{tag: 3, message: fmt.Sprintf(format, arguments...)}
}

// Retry says that something passing went wrong: try again. Spends an attempt.
func Retry(reason string) *Error { return RetryAfter(reason, -1) }

// RetryAfter is Retry after this long.
func RetryAfter(reason string, after time.Duration) *Error {
	return &Error{tag: 0, message: reason, after: after}
}

// Snooze says that it is not ready yet: come back after this long. Spends no attempt.
func Snooze(after time.Duration) *Error {
	return &Error{tag: 1, message: "snoozes for " + after.String(), after: after}
}

// Fail says that it failed and would fail again. The kind is for programs, the rest for people.
func Fail(kind, message, detail string) *Error {
	return &Error{tag: 2, kind: kind, message: message, detail: detail}
}

func perform(job *Job) (Raw, *Error) {
	for _, task := range tasks {
		if task.spec.Name != job.Task {
			continue
		}
		raw, err := task.run(job)
		var ours *Error
		switch {
		case err == nil:
			return raw, nil
		case errors.As(err, &ours):
			return Raw{}, ours
		default:
			return Raw{}, Fail(fmt.Sprintf("%T", err), err.Error(), "")
		}
	}
	return Raw{}, Reject("there is no task `%s` here", job.Task)
}
