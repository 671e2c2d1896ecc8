//! Outcomes of attempts, and the one table that decides what follows from each.
//!
//! | outcome | message | result | dead letter |
//! | --- | --- | --- | --- |
//! | done | deleted | `done` | – |
//! | retry, attempts left | back after the delay, attempt spent | – | – |
//! | retry, none left | deleted | `failed` | yes |
//! | snooze | back after the delay, attempt not spent | – | – |
//! | failed | deleted | `failed` | – |
//! | rejected | deleted | `rejected` | yes |
//! | timed out or crashed, attempts left | back after the back-off, attempt spent | – | – |
//! | timed out, none left | deleted | `timed_out` | yes |
//! | crashed, none left | deleted | `crashed` | yes |
//! | expired | deleted | `expired` | – |
//! | revoked | deleted | `revoked` | – |
//! | abandoned | back at once, attempt not spent | – | – |
//! | host fault | back after the back-off, attempt not spent | – | – |
//! | left | back after the delay; SQS counts the receive | – | – |
//!
//! [`decide`] is that table. Everything that follows (publish, dead letter, delete, release) is
//! carried out by whoever holds the message.

use std::time::Duration;

use bytes::Bytes;

use crate::backoff::Backoff;

/// The output of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Media type of `data`.
    pub content_type: String,
    /// The bytes. When `content_type` is JSON they are one JSON value, checked.
    pub data: Bytes,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// A stable, machine-readable kind, such as `ValueError` or `memory_limit`.
    pub kind: String,
    /// One line for a person.
    pub message: String,
    /// Free text for a person: a stack trace, the tail of standard error.
    pub detail: Option<String>,
}

impl Failure {
    /// A failure without detail.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), detail: None }
    }

    /// Adds detail; an empty text adds nothing.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        self.detail = (!detail.is_empty()).then_some(detail);
        self
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest returned a value.
    Done(Output),
    /// The guest asks to be tried again, after its own delay or the host's back-off.
    Retry {
        /// Why, for the logs and for the failure when no attempt is left.
        failure: Failure,
        /// The guest's delay.
        after: Option<Duration>,
    },
    /// The guest is not ready; put back without spending an attempt.
    Snooze {
        /// How long.
        after: Duration,
    },
    /// Failed for good.
    Failed(Failure),
    /// The message or its payload is not what the task takes.
    Rejected(Failure),
    /// The attempt ran out of wall time.
    TimedOut(Failure),
    /// The guest trapped, or broke a limit.
    Crashed(Failure),
    /// The job's `expires` had passed before it ran.
    Expired,
    /// Somebody revoked the job, before it ran or before it was done.
    Revoked,
    /// The host had to end before the job had its time, and had begun it late. Nobody's fault.
    Abandoned,
    /// The host could not carry the attempt out: no memory, file descriptors or disk. Not the
    /// job's fault.
    HostFault(Failure),
    /// Nobody here can do anything with the message, and another worker may.
    Left {
        /// For how long it is hidden.
        after: Duration,
        /// True if the delivery counts, since the queue's redrive policy is to see it.
        spent: bool,
    },
}

impl Outcome {
    /// Machine-readable name.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Retry { .. } => "retry",
            Self::Snooze { .. } => "snooze",
            Self::Failed(_) => "failed",
            Self::Rejected(_) => "rejected",
            Self::TimedOut(_) => "timed_out",
            Self::Crashed(_) => "crashed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Abandoned => "abandoned",
            Self::HostFault(_) => "host_fault",
            Self::Left { .. } => "left",
        }
    }
}

/// Which of the final words a result carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has a value.
    Done,
    /// It failed, or its attempts are used up.
    Failed,
    /// Its message or payload was refused.
    Rejected,
    /// Its last attempt ran out of time.
    TimedOut,
    /// Its last attempt trapped or broke a limit.
    Crashed,
    /// It was not run, since its time was over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl Status {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// The decision about a message after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Publish a result, dead-letter if asked, then delete.
    Finish {
        /// The result's status.
        status: Status,
        /// The value, or why there is none.
        value: Result<Output, Failure>,
        /// True if the original message goes to the dead letters.
        dead_letter: bool,
    },
    /// Put the message back.
    Release {
        /// Not to be received again before this has passed.
        after: Duration,
        /// True if the attempt counts.
        spent: bool,
        /// Why it goes back; `None` where that is nobody's fault.
        reason: Option<Failure>,
    },
}

/// The table of this module's head.
///
/// `attempt` is the one that just ended, counted from 1; the job has failed when it is not below
/// `max_attempts`.
pub fn decide(outcome: Outcome, attempt: u32, max_attempts: u32, backoff: &Backoff) -> Decision {
    let finish = |status, value, dead_letter| Decision::Finish { status, value, dead_letter };
    let again = |status, failure, after: Option<Duration>| {
        if attempt < max_attempts {
            let after = after.unwrap_or_else(|| backoff.delay(attempt));
            Decision::Release { after, spent: true, reason: Some(failure) }
        } else {
            finish(status, Err(failure), true)
        }
    };
    match outcome {
        Outcome::Done(output) => finish(Status::Done, Ok(output), false),
        Outcome::Retry { failure, after } => again(Status::Failed, failure, after),
        Outcome::TimedOut(failure) => again(Status::TimedOut, failure, None),
        Outcome::Crashed(failure) => again(Status::Crashed, failure, None),
        Outcome::Failed(failure) => finish(Status::Failed, Err(failure), false),
        Outcome::Rejected(failure) => finish(Status::Rejected, Err(failure), true),
        Outcome::Expired => finish(
            Status::Expired,
            Err(Failure::new("expired", "the job's expiry had passed before it could run")),
            false,
        ),
        Outcome::Revoked => finish(
            Status::Revoked,
            Err(Failure::new("revoked", "the job was revoked before it was done")),
            false,
        ),
        Outcome::Snooze { after } => Decision::Release { after, spent: false, reason: None },
        Outcome::Left { after, spent } => Decision::Release { after, spent, reason: None },
        Outcome::Abandoned => {
            Decision::Release { after: Duration::ZERO, spent: false, reason: None }
        }
        Outcome::HostFault(failure) => Decision::Release {
            after: backoff.bound(1).max(backoff.delay(attempt)),
            spent: false,
            reason: Some(failure),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(1) }
    }

    fn failure() -> Failure {
        Failure::new("k", "m")
    }

    fn finish(status: Status, value: Result<Output, Failure>, dead_letter: bool) -> Decision {
        Decision::Finish { status, value, dead_letter }
    }

    #[test]
    fn final_outcomes_finish_whatever_attempts_are_left() {
        let output = Output { content_type: "application/json".into(), data: "42".into() };
        for attempt in [1, 3] {
            let decide = |outcome| decide(outcome, attempt, 3, &backoff());
            assert_eq!(
                decide(Outcome::Done(output.clone())),
                finish(Status::Done, Ok(output.clone()), false)
            );
            assert_eq!(
                decide(Outcome::Failed(failure())),
                finish(Status::Failed, Err(failure()), false)
            );
            assert_eq!(
                decide(Outcome::Rejected(failure())),
                finish(Status::Rejected, Err(failure()), true)
            );
            assert!(matches!(
                decide(Outcome::Revoked),
                Decision::Finish { status: Status::Revoked, dead_letter: false, .. }
            ));
            assert!(matches!(
                decide(Outcome::Expired),
                Decision::Finish { status: Status::Expired, dead_letter: false, .. }
            ));
        }
    }

    #[test]
    fn passing_troubles_go_back_while_attempts_are_left_and_are_dead_letters_after() {
        let cases = [
            (Outcome::Retry { failure: failure(), after: None }, Status::Failed),
            (Outcome::TimedOut(failure()), Status::TimedOut),
            (Outcome::Crashed(failure()), Status::Crashed),
        ];
        for (outcome, status) in cases {
            match decide(outcome.clone(), 2, 3, &backoff()) {
                Decision::Release { after, spent: true, reason: Some(reason) } => {
                    assert!(after <= Duration::from_millis(200), "{after:?}");
                    assert_eq!(reason, failure());
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(decide(outcome, 3, 3, &backoff()), finish(status, Err(failure()), true));
        }
    }

    #[test]
    fn the_guests_own_delay_wins_over_the_back_off() {
        let outcome = Outcome::Retry { failure: failure(), after: Some(Duration::from_secs(90)) };
        assert!(matches!(
            decide(outcome, 1, 3, &backoff()),
            Decision::Release { after, spent: true, .. } if after == Duration::from_secs(90)
        ));
    }

    #[test]
    fn a_fault_of_the_host_spends_no_attempt_even_on_the_last_one() {
        assert!(matches!(
            decide(Outcome::HostFault(failure()), 3, 3, &backoff()),
            Decision::Release { after, spent: false, reason: Some(_) } if !after.is_zero()
        ));
    }

    #[test]
    fn what_is_left_to_others_goes_back_and_counts_only_where_the_queue_counts() {
        for spent in [false, true] {
            let after = Duration::from_secs(2);
            assert_eq!(
                decide(Outcome::Left { after, spent }, 99, 3, &backoff()),
                Decision::Release { after, spent, reason: None }
            );
        }
    }

    #[test]
    fn snooze_and_abandon_spend_no_attempt_even_on_the_last_one() {
        let snooze = Outcome::Snooze { after: Duration::from_secs(5) };
        assert_eq!(
            decide(snooze, 3, 3, &backoff()),
            Decision::Release { after: Duration::from_secs(5), spent: false, reason: None }
        );
        assert_eq!(
            decide(Outcome::Abandoned, 3, 3, &backoff()),
            Decision::Release { after: Duration::ZERO, spent: false, reason: None }
        );
    }
}
