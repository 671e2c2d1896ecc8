//! Tasks. `lovage build` makes a component of this file.

const std = @import("std");
const lovage = @import("lovage.zig");

comptime {
    lovage.serve(&.{
        .{ .name = "my_task", .description = "Doubles a number.", .run = doubled },
    });
}

fn doubled(job: *const lovage.Invocation) lovage.Outcome {
    const value = job.json(std.json.Value) orelse return .{ .reject = "the payload is no JSON" };
    const twice = switch (value) {
        .integer => |number| 2 * @as(f64, @floatFromInt(number)),
        .float => |number| 2 * number,
        // Beyond 64 bits.
        .number_string => |digits| 2 * (std.fmt.parseFloat(f64, digits) catch unreachable),
        else => return .{ .reject = lovage.text("a number is needed, not {t}", .{value}) },
    };
    if (!std.math.isFinite(twice)) return .{ .reject = "the number is too large to be doubled" };
    lovage.progress(100, "doubled");
    return .{ .json = lovage.text("{d}", .{twice}) };
}
