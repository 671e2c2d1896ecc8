//! Where the figures come from: without it they say nothing.

use std::process::Command;

use super::report::Report;

pub fn run(report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let commit =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    report.section("machine");
    report.set("machine", "cores", cores);
    report.set("machine", "kernel", kernel.trim());
    report.set("machine", "processor", processor.trim_start_matches([' ', '\t', ':']));
    report.set("machine", "commit", commit.unwrap_or_default());
}
