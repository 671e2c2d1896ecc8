package lovage

import (
	"time"
	"unsafe"
)

// The contract's types in the memory layout of the component model, and the functions that the host
// calls. What it is given has to stay where it is: `kept` holds it until the instance is thrown
// away, which is after each attempt.

type text struct{ ptr, len uint32 }

type optionalText struct {
	present uint32 // the lowest byte
	text    text
}

// Invocation.
type invocation struct {
	id, task, tenant     text
	attempt, maxAttempts uint32
	deadline             uint64
	rootID               text
	parentID             optionalText
	headers              text // of header
	contentType, payload text
}

type header struct{ name, value text }

// Task-spec. A number of 64 bits lies at a multiple of eight, before which is what says whether it
// is there.
type taskSpec struct {
	name, description         text
	inputSchema, outputSchema optionalText
	hasMaxAttempts            uint32
	maxAttempts               uint32
	hasTimeout                uint64
	timeout                   uint64
}

// Result<output, task-error>, by what it holds.
type output struct {
	isError           uint64
	contentType, data text
}

type taskError struct {
	isError uint64
	tag     uint64
	first   [2]text // or a number of milliseconds, or whether there is one
	rest    [2]uint64
}

var kept []any

func pointer(at uint32) unsafe.Pointer { return unsafe.Pointer(uintptr(at)) }

// Gives a value to the host.
func give[T any](value *T) uint32 {
	kept = append(kept, value)
	return uint32(uintptr(unsafe.Pointer(value)))
}

func giveBytes(data []byte) text {
	if len(data) == 0 {
		return text{}
	}
	kept = append(kept, data)
	return text{uint32(uintptr(unsafe.Pointer(&data[0]))), uint32(len(data))}
}

func giveText(value string) text { return giveBytes([]byte(value)) }

func giveOptional(value string) optionalText {
	if value == "" {
		return optionalText{}
	}
	return optionalText{1, giveText(value)}
}

func (t text) bytes() []byte {
	if t.len == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(pointer(t.ptr)), t.len)
}

func (t text) string() string { return string(t.bytes()) }

//go:wasmexport cabi_realloc
func realloc(old, oldLen, align, size uint32) uint32 {
	// Of words of 64 bits, for whatever has to lie at a multiple of eight.
	made := make([]uint64, (size+15)/8)
	kept = append(kept, made)
	at := uint32(uintptr(unsafe.Pointer(&made[0])))
	copy(text{at, size}.bytes(), text{old, oldLen}.bytes())
	return at
}

//go:wasmexport lovage:task/handler@1.1.0#describe
func describe() uint32 {
	specs := make([]taskSpec, len(tasks))
	for i, task := range tasks {
		spec := task.spec
		specs[i] = taskSpec{
			name:         giveText(spec.Name),
			description:  giveText(spec.Description),
			inputSchema:  giveOptional(spec.InputSchema),
			outputSchema: giveOptional(spec.OutputSchema),
		}
		if spec.MaxAttempts > 0 {
			specs[i].hasMaxAttempts, specs[i].maxAttempts = 1, spec.MaxAttempts
		}
		if spec.Timeout > 0 {
			specs[i].hasTimeout, specs[i].timeout = 1, uint64(spec.Timeout.Milliseconds())
		}
	}
	list := text{len: uint32(len(specs))}
	if len(specs) > 0 {
		list.ptr = give(&specs[0])
	}
	return give(&list)
}

//go:wasmexport lovage:task/handler@1.1.0#run
func run(at uint32) uint32 {
	it := (*invocation)(pointer(at))
	job := Job{
		ID:          it.id.string(),
		Task:        it.task.string(),
		Tenant:      it.tenant.string(),
		Attempt:     it.attempt,
		MaxAttempts: it.maxAttempts,
		Deadline:    time.UnixMilli(int64(it.deadline)),
		RootID:      it.rootID.string(),
		ContentType: it.contentType.string(),
		Payload:     it.payload.bytes(),
	}
	if it.parentID.present&1 == 1 {
		job.ParentID = it.parentID.text.string()
	}
	if it.headers.len > 0 {
		for _, header := range unsafe.Slice((*header)(pointer(it.headers.ptr)), it.headers.len) {
			job.Headers = append(job.Headers, [2]string{header.name.string(), header.value.string()})
		}
	}
	raw, err := perform(&job)
	if err == nil {
		// As long as a result is at most, whatever it holds.
		return give(&struct {
			output
			_ [3]uint64
		}{output: output{contentType: giveText(raw.ContentType), data: giveBytes(raw.Data)}})
	}
	result := taskError{isError: 1, tag: uint64(err.tag)}
	after := uint64(err.after.Milliseconds())
	switch err.tag {
	case 0:
		result.first[0] = giveText(err.message)
		if err.after >= 0 {
			result.first[1], result.rest[0] = text{ptr: 1}, after
		}
	case 1:
		result.first[0] = text{uint32(after), uint32(after >> 32)}
	case 2:
		result.first = [2]text{giveText(err.kind), giveText(err.message)}
		detail := giveOptional(err.detail)
		result.rest = [2]uint64{
			uint64(detail.present) | uint64(detail.text.ptr)<<32,
			uint64(detail.text.len),
		}
	case 3:
		result.first[0] = giveText(err.message)
	}
	return give(&result)
}

//go:wasmimport lovage:task/progress@1.1.0 report
func hostReport(percent uint32, message, length uint32)

//go:wasmimport lovage:task/progress@1.1.0 is-revoked
func hostIsRevoked() uint32

func report(percent uint8, message string) {
	bytes := giveText(message)
	hostReport(uint32(percent), bytes.ptr, bytes.len)
}

func isRevoked() bool { return hostIsRevoked() != 0 }
