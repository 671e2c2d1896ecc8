//! What must be seen of an attack: the failure says what happened, in texts that can be shown.

use std::time::Duration;

use lovage::outcome::{Failure, Outcome, Output, Status};
use lovage::result::JobResult;
use lovage::sandbox::{DETAIL_BYTES, KIND_BYTES, MESSAGE_BYTES, Plan, Report};

use super::world::CANARY;
use super::{Fixture, Seen};

/// How an attack ended.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub enum Ended {
    NotLoaded(String),
    Ran(Report),
}

/// The most bytes of an error about a component: its `describe` may have failed with a detail.
pub const ERROR_BYTES: usize = 2 * DETAIL_BYTES;

pub fn check(fixture: &Fixture, ended: &Ended) {
    let name = &fixture.name;
    // Neither in what the guest gives back nor in what is told of it.
    let all = format!("{ended:?}");
    assert!(!all.contains(CANARY), "{name}: {ended:?}");
    assert!(!all.contains("Stack backtrace"), "{name}: the host's own stack is told: {ended:?}");
    let report = match (ended, fixture.seen) {
        (Ended::NotLoaded(error), Seen::Refused(words)) => {
            fits(error, ERROR_BYTES, true);
            assert!(error.contains(words), "{name}: `{words}` is not in: {error}");
            return;
        }
        (Ended::NotLoaded(error), seen) => panic!("{name}: {error}, in place of {seen:?}"),
        (Ended::Ran(report), _) => report,
    };
    let outcome = &report.outcome;
    let is = |failure: &Failure, kind: &str, words: &str| {
        let all = format!("{}\n{}", failure.message, failure.detail.as_deref().unwrap_or(""));
        assert_eq!(failure.kind, kind, "{name}: {failure:?}");
        assert!(all.contains(words), "{name}: `{words}` is not in: {all}");
    };
    match (outcome, fixture.seen) {
        (Outcome::Crashed(failure), Seen::Crashed(kind, words))
        | (Outcome::Failed(failure), Seen::Failed(kind, words)) => is(failure, kind, words),
        (Outcome::Rejected(failure), Seen::Rejected(words)) => is(failure, "rejected", words),
        (Outcome::Retry { failure, .. }, Seen::Retried(words)) => is(failure, "retry", words),
        (Outcome::TimedOut(failure), Seen::TimedOut) => is(failure, "timeout", "`timeout_ms`"),
        (Outcome::Done(output), Seen::Done) => published(output),
        (Outcome::Done(output), Seen::Told(words)) => {
            let told = String::from_utf8_lossy(&output.data);
            assert!(told.contains(words), "{name}: `{words}` is not in: {told}");
            published(output);
        }
        (Outcome::Snooze { after }, Seen::Snoozed) => {
            assert!(*after <= Duration::from_hours(365 * 24), "{name}: {after:?}");
        }
        (Outcome::Done(_) | Outcome::Crashed(_), Seen::Any) => {}
        (outcome, seen) => panic!("{name}: {outcome:?}, in place of {seen:?}"),
    }
    match outcome {
        Outcome::Crashed(failure)
        | Outcome::Failed(failure)
        | Outcome::TimedOut(failure)
        | Outcome::Rejected(failure)
        | Outcome::Retry { failure, .. } => {
            fits(&failure.kind, KIND_BYTES, false);
            fits(&failure.message, MESSAGE_BYTES, false);
            fits(failure.detail.as_deref().unwrap_or(""), DETAIL_BYTES, true);
        }
        _ => {}
    }
    if !matches!(outcome, Outcome::Done(_)) {
        assert_eq!(report.follow_ons, [], "{name}: sent though it is not done");
    }
    let kept = Plan::default().limits.stdio_bytes;
    for tail in [&report.stdout, &report.stderr] {
        assert!(tail.first.len() + tail.bytes.len() <= kept, "{name}");
    }
    fits(&report.stdout.text(), usize::MAX, true);
    fits(&report.stderr.text(), usize::MAX, true);
}

/// A result can be made of whatever is given back, and it is one line of valid JSON.
fn published(output: &Output) {
    let result = JobResult {
        id: "job-1".to_owned(),
        task: "t".to_owned(),
        tenant: String::new(),
        status: Status::Done,
        value: Ok(output.clone()),
        attempt: 1,
        queued_at: None,
        started_at: None,
        finished_at: jiff::Timestamp::UNIX_EPOCH,
        component: None,
        usage: None,
    };
    let envelope = result.envelope();
    serde_json::from_slice::<serde::de::IgnoredAny>(&envelope).unwrap();
    assert!(!result.bare_message().body.is_empty() || output.data.is_empty());
}

/// Whether a text can be shown: bounded, and without what steers a terminal or the eye.
pub fn fits(text: &str, most: usize, lines: bool) {
    assert!(text.len() <= most, "{} bytes: {text}", text.len());
    let steers = |c: char| {
        (c.is_control() && !(lines && (c == '\n' || c == '\t')))
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(steers), "steers a terminal: {text:?}");
}
