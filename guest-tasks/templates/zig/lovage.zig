//! Tasks as functions: bytes in, bytes out. A thin layer over the contract in wit/, in the memory
//! layout of the component model; change it as you like.
//!
//! Nothing is freed: each attempt has a fresh instance, which is thrown away.

const std = @import("std");

/// For all that a task needs.
pub const allocator = std.heap.wasm_allocator;

/// A text or bytes, as the contract has them.
pub const Slice = extern struct {
    ptr: [*]const u8,
    len: usize,

    pub fn of(bytes: []const u8) Slice {
        return .{ .ptr = bytes.ptr, .len = bytes.len };
    }

    pub fn get(self: Slice) []const u8 {
        return self.ptr[0..self.len];
    }
};

/// A text that may be absent.
pub const OptionalSlice = extern struct {
    present: bool = false,
    value: Slice = .{ .ptr = "", .len = 0 },

    pub fn get(self: OptionalSlice) ?[]const u8 {
        return if (self.present) self.value.get() else null;
    }
};

/// A header of a job.
pub const Header = extern struct { name: Slice, value: Slice };

/// One attempt at one job.
pub const Invocation = extern struct {
    /// The same at each attempt: the idempotency key.
    id: Slice,
    task: Slice,
    tenant: Slice,
    /// 1 at first.
    attempt: u32,
    max_attempts: u32,
    /// Milliseconds since 1970 at which the host stops the task.
    deadline: u64,
    root_id: Slice,
    parent_id: OptionalSlice,
    headers: extern struct { ptr: [*]const Header, len: usize },
    content_type: Slice,
    payload: Slice,

    /// Reads the payload as JSON; null when it is no JSON, or not of this type.
    pub fn json(self: *const Invocation, comptime T: type) ?T {
        const json_type = "application/json";
        if (!std.ascii.startsWithIgnoreCase(self.content_type.get(), json_type)) return null;
        return std.json.parseFromSliceLeaky(T, allocator, self.payload.get(), .{}) catch null;
    }
};

/// How a task ends.
pub const Outcome = union(enum) {
    /// With JSON text.
    json: []const u8,
    /// With bytes of a media type.
    bytes: struct { content_type: []const u8, data: []const u8 },
    /// Something passing went wrong: try again, after so many milliseconds if given. Spends an
    /// attempt.
    retry: struct { reason: []const u8, after_ms: ?u64 = null },
    /// Not ready yet: come back after so many milliseconds. Spends no attempt.
    snooze: u64,
    /// It failed and would fail again. `kind` is for programs, the rest for people.
    fail: struct { kind: []const u8, message: []const u8, detail: ?[]const u8 = null },
    /// The payload is not what the task takes. Never tried again.
    reject: []const u8,
};

/// A task; the numbers advise the host.
pub const Task = struct {
    name: []const u8,
    description: []const u8 = "",
    max_attempts: ?u32 = null,
    timeout_ms: ?u64 = null,
    run: *const fn (*const Invocation) Outcome,
};

/// A text, as by std.fmt.
pub fn text(comptime format: []const u8, arguments: anytype) []const u8 {
    return std.fmt.allocPrint(allocator, format, arguments) catch @panic("out of memory");
}

/// Says how far the attempt is.
pub fn progress(percent: u8, message: []const u8) void {
    imports.report(percent, message.ptr, message.len);
}

/// Whether the attempt should end.
pub fn isRevoked() bool {
    return imports.@"is-revoked"() != 0;
}

const imports = struct {
    extern "lovage:task/progress@1.1.0" fn report(u32, [*]const u8, usize) void;
    extern "lovage:task/progress@1.1.0" fn @"is-revoked"() u32;
};

const handler = "lovage:task/handler@1.1.0#";

/// Exports these tasks; once in a component, in a `comptime` block.
pub fn serve(comptime tasks: []const Task) void {
    const Exports = struct {
        fn describe() callconv(.c) *const List {
            const specs = allocator.alloc(Spec, tasks.len) catch @panic("out of memory");
            inline for (tasks, specs) |task, *spec| {
                spec.* = .{ .name = .of(task.name), .description = .of(task.description) };
                if (task.max_attempts) |most| {
                    spec.has_max_attempts = true;
                    spec.max_attempts = most;
                }
                if (task.timeout_ms) |most| {
                    spec.has_timeout = true;
                    spec.timeout = most;
                }
            }
            list = .{ .ptr = specs.ptr, .len = specs.len };
            return &list;
        }

        fn run(invocation: *const Invocation) callconv(.c) *const Result {
            inline for (tasks) |task| {
                if (std.mem.eql(u8, invocation.task.get(), task.name)) {
                    result = .of(task.run(invocation));
                    return &result;
                }
            }
            result = .of(.{ .reject = "there is no such task here" });
            return &result;
        }
    };
    @export(&Exports.describe, .{ .name = handler ++ "describe" });
    @export(&Exports.run, .{ .name = handler ++ "run" });
    @export(&realloc, .{ .name = "cabi_realloc" });
}

/// What the host gets memory by.
fn realloc(old: [*]u8, old_len: usize, alignment: usize, len: usize) callconv(.c) [*]u8 {
    _ = alignment;
    const made = allocator.alignedAlloc(u8, .@"16", @max(len, 1)) catch @panic("out of memory");
    @memcpy(made[0..@min(old_len, len)], old[0..@min(old_len, len)]);
    return made.ptr;
}

const List = extern struct { ptr: [*]const Spec, len: usize };
var list: List = undefined;
var result: Result = undefined;

/// The contract's `task-spec`.
const Spec = extern struct {
    name: Slice,
    description: Slice,
    input_schema: OptionalSlice = .{},
    output_schema: OptionalSlice = .{},
    has_max_attempts: bool = false,
    max_attempts: u32 = 0,
    has_timeout: bool = false,
    timeout: u64 = 0,
};

/// The contract's `result<output, task-error>`.
const Result = extern struct {
    is_error: bool,
    value: extern union {
        output: extern struct { content_type: Slice, data: Slice },
        failure: extern struct {
            tag: u8,
            value: extern union {
                retry: extern struct { reason: Slice, has_after: bool, after: u64 },
                snooze: u64,
                fail: extern struct { kind: Slice, message: Slice, detail: OptionalSlice },
                reject: Slice,
            },
        },
    },

    fn of(outcome: Outcome) Result {
        return switch (outcome) {
            .json => |data| done("application/json", data),
            .bytes => |it| done(it.content_type, it.data),
            .retry => |it| failed(0, .{ .retry = .{
                .reason = .of(it.reason),
                .has_after = it.after_ms != null,
                .after = it.after_ms orelse 0,
            } }),
            .snooze => |ms| failed(1, .{ .snooze = ms }),
            .fail => |it| failed(2, .{ .fail = .{
                .kind = .of(it.kind),
                .message = .of(it.message),
                .detail = if (it.detail) |detail|
                    .{ .present = true, .value = .of(detail) }
                else
                    .{},
            } }),
            .reject => |reason| failed(3, .{ .reject = .of(reason) }),
        };
    }

    fn done(content_type: []const u8, data: []const u8) Result {
        return .{ .is_error = false, .value = .{ .output = .{
            .content_type = .of(content_type),
            .data = .of(data),
        } } };
    }

    fn failed(
        tag: u8,
        value: @FieldType(@FieldType(@FieldType(Result, "value"), "failure"), "value"),
    ) Result {
        return .{ .is_error = true, .value = .{ .failure = .{ .tag = tag, .value = value } } };
    }
};
