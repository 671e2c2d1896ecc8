//! What Lovage costs, measured in one run and beside what it could cost: `make bench`.
//!
//! ```text
//! cargo bench -p lovage                     everything
//! cargo bench -p lovage -- sandbox start    some sections
//! ```
//!
//! Prints a table for people and writes `target/bench.json` for scripts, and docs/performance.svg; a run of some sections
//! leaves the others of that file as they were. Machines differ and drift: compare figures of one
//! run, and quote ratios.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a program for developers: what goes wrong ends it, and what it finds is printed"
)]

mod embedded;
mod floor;
mod growth;
mod machine;
mod measure;
mod memory;
mod noisy;
mod plot;
mod ready;
mod report;
mod sandbox;
mod shipping;
mod sqs;
mod stand_in;
mod start;
mod worker;

use report::Report;

/// The one that the program has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Section = (&'static str, fn(&mut Report));

const SECTIONS: &[Section] = &[
    ("sandbox", sandbox::run),
    ("guests", sandbox::guests),
    ("ready", ready::run),
    ("embedded", embedded::run),
    ("latency", embedded::latency),
    ("sqs", sqs::run),
    ("start", start::run),
    ("memory", memory::run),
    ("noisy", noisy::run),
    ("shipping", shipping::run),
    ("growth", growth::run),
    ("payloads", growth::payloads),
];

fn main() {
    lovage::backtraces::leave_out();
    // `cargo bench` adds options of its own.
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let [name, jobs] = names.as_slice()
        && name == stand_in::NAME
    {
        return stand_in::serve(jobs.parse().unwrap());
    }
    for name in &names {
        if !SECTIONS.iter().any(|(section, _)| section == name) {
            let known: Vec<&str> = SECTIONS.iter().map(|(section, _)| *section).collect();
            eprintln!("there is no section `{name}`; there are: {}", known.join(", "));
            std::process::exit(2);
        }
    }
    let mut report = Report::open();
    machine::run(&mut report);
    for (name, run) in SECTIONS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            eprintln!("measuring: {name} …");
            run(&mut report);
        }
    }
    report.close();
}
