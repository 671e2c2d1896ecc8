//! The hostile corpus: components that attack, each a named fixture, and what must be seen of it.
//!
//! One file holds the fixtures that attack one promise; to add one is to add an entry to its list.
//! All are put through the same mill ([`harness`]): the failure says what happened, in texts that
//! are bounded and escaped; jobs beside it, before and after give their right answers; and memory,
//! slots and threads are afterwards what they were before. `docs/hostile-corpus.md` has the table,
//! which is made from these lists.
//!
//! Every group runs in a process of its own. So its memory is nobody else's, and a guest that took
//! the whole process down would be a failed test, and not the end of all tests.

#![allow(clippy::too_many_lines, reason = "lists of fixtures are long, and better whole")]

mod adversary;
mod answers;
mod asynchronous;
mod buckets;
mod check;
mod files;
mod followers;
mod generated;
mod handles;
mod harness;
mod lies;
mod make;
mod memory;
mod reach;
mod scratch;
mod secrets;
mod shapes;
mod spins;
mod table;
mod texts;
mod traps;
mod ungranted;
mod world;

use std::path::{Path, PathBuf};

use lovage::job::Job;
use lovage::sandbox::Plan;

/// Fixtures that attack one promise.
pub struct Group {
    /// What the worker promises, and they attack.
    pub promise: &'static str,
    /// The fixtures.
    pub fixtures: Vec<Fixture>,
}

/// One hostile component.
pub struct Fixture {
    /// Its name, unique in the corpus.
    pub name: String,
    /// What it does, for the table.
    pub does: &'static str,
    made: Made,
    change: fn(&mut Plan),
    job: fn(&mut Job),
    /// Settings with grants; `None` where it is granted nothing, but may import what it likes.
    granted: Option<&'static str>,
    seen: Seen,
}

impl Fixture {
    /// A component that the function makes, and that serves a task `t` if it serves any.
    pub fn new(
        name: impl Into<String>,
        does: &'static str,
        seen: Seen,
        component: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::made(name, does, seen, Made::Component(Box::new(component)))
    }

    /// A guest of `guest-tasks`, and what it is asked: JSON, in which the names of the
    /// [world](`world`) are filled in.
    pub fn guest(
        name: impl Into<String>,
        does: &'static str,
        seen: Seen,
        (file, task, payload): (&'static str, &'static str, impl ToString),
    ) -> Self {
        let payload = payload.to_string();
        Self::made(name, does, seen, Made::Guest { file, task, payload })
    }

    /// Something in the file system, which the function makes in a directory.
    pub fn file(
        name: impl Into<String>,
        does: &'static str,
        seen: Seen,
        make: fn(&Path) -> PathBuf,
    ) -> Self {
        Self::made(name, does, seen, Made::File(make))
    }

    fn made(name: impl Into<String>, does: &'static str, seen: Seen, made: Made) -> Self {
        let name = name.into();
        Self { name, does, made, seen, change: |_| {}, job: |_| {}, granted: None }
    }

    /// With another plan than that of all fixtures.
    #[must_use]
    pub fn planned(mut self, change: fn(&mut Plan)) -> Self {
        self.change = change;
        self
    }

    /// With what these settings grant.
    #[must_use]
    pub fn granted(mut self, settings: &'static str) -> Self {
        self.granted = Some(settings);
        self
    }

    /// For another job than that of all fixtures.
    #[must_use]
    pub fn job(mut self, change: fn(&mut Job)) -> Self {
        self.job = change;
        self
    }
}

/// How a fixture is made.
enum Made {
    Guest { file: &'static str, task: &'static str, payload: String },
    Component(Box<dyn Fn() -> Vec<u8> + Send + Sync>),
    File(fn(&Path) -> PathBuf),
}

/// What must be seen. Words are part of the message or of the detail.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// It is not loaded, and the error has these words.
    Refused(&'static str),
    /// The attempt crashed: kind and words.
    Crashed(&'static str, &'static str),
    /// The attempt failed for good: kind and words.
    Failed(&'static str, &'static str),
    /// It was stopped at its timeout.
    TimedOut,
    /// It is rejected, with these words.
    Rejected(&'static str),
    /// It asks to be tried again, with these words.
    Retried(&'static str),
    /// It asks to be put back.
    Snoozed,
    /// The job is done: the attack leads nowhere.
    Done,
    /// The same, and what it gives back has these words.
    Told(&'static str),
    /// Done or crashed: it is not ours to say which, only that nothing is harmed.
    Any,
}

/// Declares the groups: a module with `group()` each, a test each, and the list of all.
macro_rules! groups {
    ($($test:ident: $module:ident,)*) => {
        $(#[test]
        fn $test() {
            harness::in_a_process_of_its_own(
                concat!("hostile::", stringify!($test)),
                $module::group,
            );
        })*

        /// All groups.
        pub fn groups() -> Vec<Group> {
            vec![$($module::group(),)*]
        }
    };
}

groups! {
    what_does_not_end_is_ended: spins,
    what_takes_memory_is_bounded: memory,
    what_hoards_handles_is_stopped: handles,
    lies_about_results_are_caught: lies,
    traps_end_the_guest_alone: traps,
    texts_of_strangers_are_bounded_and_escaped: texts,
    malformed_components_are_not_loaded: shapes,
    what_is_no_component_file_is_told: files,
    asynchronous_tricks_lead_nowhere: asynchronous,
    what_is_not_granted_is_not_loaded: ungranted,
    requests_go_only_where_they_may: reach,
    servers_that_attack_are_borne: answers,
    buckets_are_their_tenants_alone: buckets,
    no_way_leads_out_of_the_scratch_directory: scratch,
    secrets_are_for_whom_they_were_granted: secrets,
    jobs_do_not_breed_without_end: followers,
}
