//! Messages that nobody here can do anything with, left for other workers of their queue.
//!
//! Without end (`celery.unknown_tasks = "leave"`) a message is left as it is: on SQS its visibility
//! changes and nothing else, so that its count of receives and its age go on, and the queue's own
//! redrive policy and retention end it. Within bounds (`worker.leave_unknown_ms`) it is put back and
//! spends no attempt until it is so old; then it is rejected.
//!
//! The first time it is shown again at once, and this worker takes nothing from the queue for a
//! moment, the longer the more often it comes across such messages in a row: an idle worker that
//! serves the task gets it. After that it is hidden for about as long as it has waited already.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::Pipeline;
use crate::{message::DecodedJob, routes::Source};
use lovage_core::{broker::Message, events::MessageLeft, format::Format, outcome::Outcome};

/// The shortest and the longest time for which a message is hidden that was left before.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);

/// The longest where a message is left within bounds: those are rollouts, in which the worker that
/// serves the task is about to come.
const LONGEST_BOUNDED: Duration = Duration::from_secs(5);

/// For how long a queue's turn is given up at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How many names are remembered, so that each is warned about once.
const NAMES: usize = 1000;

/// What a pipeline remembers of messages that it left.
#[derive(Debug, Default)]
pub(super) struct LeftToOthers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: HashSet<(String, String)>,
    /// By queue: how many were left in a row, and until when its turn is given up.
    turns: HashMap<String, (u32, Instant)>,
}

impl LeftToOthers {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves it whole: each change to it is a single call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a task was not met on this queue before.
    fn is_new(&self, queue: &str, task: &str) -> bool {
        let mut state = self.state();
        state.told.len() < NAMES && state.told.insert((queue.to_owned(), task.to_owned()))
    }

    fn give_up_turn(&self, queue: &str) {
        let mut state = self.state();
        let in_a_row = state.turns.get(queue).map_or(0, |(count, _)| *count);
        let pause = PAUSE.saturating_mul(1 << in_a_row.min(8)).min(LONGEST_PAUSE);
        let until = Instant::now() + jittered(pause);
        state.turns.insert(queue.to_owned(), (in_a_row.saturating_add(1), until));
    }

    /// A message of the queue was one of ours.
    pub(super) fn take_turn(&self, queue: &str) {
        self.state().turns.remove(queue);
    }

    fn turn_given_up(&self, queue: &str) -> Option<Duration> {
        let state = self.state();
        let (_, until) = state.turns.get(queue)?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }
}

impl Pipeline {
    /// What becomes of a message that nobody here can do anything with; `None` where it is not left.
    /// `unbounded`: it is left without end.
    pub(super) fn leave(
        &self,
        source: &Source,
        message: &Message,
        job: &DecodedJob,
        unbounded: bool,
    ) -> Option<Outcome> {
        let age = message.sent_at.map(|sent| Timestamp::now().duration_since(sent));
        let age = age.map(|age| Duration::try_from(age).unwrap_or_default());
        let bound = Duration::from_millis(self.config.worker.leave_unknown_ms);
        if !unbounded && age.is_none_or(|age| age >= bound) {
            return None;
        }
        let first = self.left.is_new(&source.name, &job.task);
        MessageLeft { queue: &source.name, task: &job.task, first }.emit();
        if unbounded {
            self.left.give_up_turn(&source.name);
        }
        let age = age.unwrap_or(LONGEST);
        let after = if unbounded && message.attempt <= 1 {
            Duration::ZERO
        } else {
            let most =
                if unbounded { LONGEST } else { bound.saturating_sub(age).min(LONGEST_BOUNDED) };
            jittered(age).clamp(SHORTEST, most.max(SHORTEST))
        };
        // SQS counts receives by itself, and its redrive policy is to see them. The embedded broker
        // has none, and counts attempts.
        let spent = unbounded && !self.keeps_results;
        Some(Outcome::Left { after, spent })
    }

    /// Returns true if messages of a queue may be left to others without end.
    pub fn may_leave(&self, source: &Source) -> bool {
        source.defaults.format == Format::Celery && self.leaves()
    }

    /// For how long nothing is to be taken from a queue, so that others get what was left to them.
    pub fn turn_given_up(&self, queue: &str) -> Option<Duration> {
        self.left.turn_given_up(queue)
    }
}

/// Spread out, or workers would come back together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_warned_about_once_and_not_without_bound() {
        let left = LeftToOthers::default();
        assert!(left.is_new("q", "a") && !left.is_new("q", "a"));
        assert!(left.is_new("other", "a"));
        for number in 0..2 * NAMES {
            left.is_new("q", &number.to_string());
        }
        assert_eq!(left.state().told.len(), NAMES);
    }

    #[test]
    fn the_turn_is_given_up_for_longer_the_more_is_left_in_a_row() {
        let left = LeftToOthers::default();
        assert_eq!(left.turn_given_up("q"), None);
        left.give_up_turn("q");
        let first = left.turn_given_up("q").unwrap();
        for _ in 0..3 {
            left.give_up_turn("q");
        }
        let later = left.turn_given_up("q").unwrap();
        assert!(later > first.saturating_mul(3), "{first:?} {later:?}");
        for _ in 0..100 {
            left.give_up_turn("q");
        }
        assert!(left.turn_given_up("q").unwrap() <= LONGEST_PAUSE.mul_f64(1.25));
        left.take_turn("q");
        assert_eq!(left.turn_given_up("q"), None);
    }
}
