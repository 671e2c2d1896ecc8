//! Deliveries that SQS counts and that spent no attempt.
//!
//! SQS counts each receive of a message. One that is put back unrun (behind a failed message of its
//! FIFO group, at a shutdown, for want of time) is shown again at once, and nothing that SQS keeps
//! tells such a receive from an attempt. So the process remembers how many there were,
//! and takes them off the count when the message comes again. What another process put back, it does
//! not know: there the count is too high, as before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use lovage_core::broker::{Message, Settlement};

/// How many messages are remembered, about: of two generations, the older goes when the younger is full.
const REMEMBERED: usize = 20_000;

/// How many deliveries of each message spent nothing. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Unspent(Arc<Mutex<Generations>>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, u32>,
    old: HashMap<String, u32>,
}

impl Generations {
    fn count(&self, id: &str) -> u32 {
        self.young.get(id).or_else(|| self.old.get(id)).copied().unwrap_or(0)
    }

    fn set(&mut self, id: &str, count: u32) {
        if self.young.len() >= REMEMBERED / 2 && !self.young.contains_key(id) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id.to_owned(), count);
    }

    fn forget(&mut self, id: &str) {
        self.young.remove(id);
        self.old.remove(id);
    }
}

impl Unspent {
    /// A message was put back by its visibility timeout. One with a wait has run, or is for an eta, which
    /// is accounted for by whoever knows the eta.
    pub(super) fn put_back(&self, settlement: &Settlement) {
        use lovage_core::broker::Disposal::Release;
        let id = &settlement.message.id;
        match settlement.disposal {
            Release { after, spent: false } if after.is_zero() => {
                let mut all = self.all();
                let count = all.count(id).saturating_add(1);
                all.set(id, count);
            }
            _ => {}
        }
    }

    /// A message is gone, or goes on as a copy that tells its attempts itself.
    pub(super) fn gone(&self, id: &str) {
        let mut all = self.all();
        if !all.young.is_empty() || !all.old.is_empty() {
            all.forget(id);
        }
    }

    /// Takes the deliveries that spent nothing off the count of a message that was received.
    pub(super) fn correct(&self, message: &mut Message) {
        let unspent = self.all().count(&message.id);
        message.attempt = message.attempt.saturating_sub(unspent).max(1);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Generations> {
        // A panic elsewhere leaves the maps whole: each change to them is a single call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use lovage_core::broker::{Disposal, Receipt};

    fn delivery(id: &str, attempt: u32) -> Message {
        Message {
            id: id.to_owned(),
            receipt: Receipt("r".into()),
            body: "1".into(),
            attributes: std::collections::BTreeMap::new(),
            group: None,
            attempt,
            sent_at: None,
            not_before: None,
            trace_header: None,
        }
    }

    fn released(id: &str, after: u64, spent: bool) -> Settlement {
        let disposal = Disposal::Release { after: Duration::from_secs(after), spent };
        Settlement { message: Arc::new(delivery(id, 1)), disposal }
    }

    fn counted(unspent: &Unspent, id: &str, received: u32) -> u32 {
        let mut message = delivery(id, received);
        unspent.correct(&mut message);
        message.attempt
    }

    #[test]
    fn deliveries_that_spent_nothing_are_taken_off_the_count() {
        let unspent = Unspent::default();
        assert_eq!(counted(&unspent, "a", 3), 3);
        for settlement in [
            released("a", 0, false),
            released("a", 0, false),
            released("a", 0, true),
            released("a", 5, false),
        ] {
            unspent.put_back(&settlement);
        }
        assert_eq!((counted(&unspent, "a", 5), counted(&unspent, "b", 5)), (3, 5));
        assert_eq!(counted(&unspent, "a", 1), 1);
        unspent.gone("a");
        assert_eq!(counted(&unspent, "a", 5), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_stay() {
        let unspent = Unspent::default();
        for n in 0..3 * REMEMBERED {
            unspent.put_back(&released(&n.to_string(), 0, false));
        }
        let all = unspent.all();
        assert!(all.young.len() + all.old.len() <= REMEMBERED);
        assert_eq!((all.count("0"), all.count(&(3 * REMEMBERED - 1).to_string())), (0, 1));
    }
}
