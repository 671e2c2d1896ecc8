//! Results of jobs whose messages could not be settled: kept for the next delivery.
//!
//! A message whose result cannot be published in time goes back, and comes again. Its job has run, and
//! is not run again here: what it came to is kept, and the next delivery is settled with it.
//!
//! What is kept is bounded in number, bytes and time. Where there is no room, the oldest of the tenant
//! that has the most goes: a tenant whose results pile up displaces its own. What was dropped costs a
//! second run, nothing more.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use sha2::{Digest as _, Sha256};

use super::{Ended, Finished};
use lovage_core::broker::{Disposal, Message};

/// The most results that are kept.
const MOST: usize = 4096;

/// The most bytes that they hold together.
const BYTES: usize = 64 << 20;

/// For how long one is kept. Whoever has settled the message meanwhile does not tell.
const TIME: Duration = Duration::from_hours(12);

/// What a job came to whose message could not be settled.
#[derive(Debug)]
pub(super) enum Kept {
    /// Its guest has run, in the attempt of this number, and it is not known yet what follows: that has
    /// to be asked of somebody who is away.
    Ended(Box<Ended>, u32),
    /// What is left to be done with its message.
    Settlement(Disposal, Option<Box<Finished>>),
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Self::Ended(ended, _) => ended.bytes(),
            Self::Settlement(Disposal::Finish { result, sends }, _) => {
                let kept = result.as_ref().map_or(0, |result| result.envelope.len());
                kept + sends.iter().map(|send| 512 + send.message.body.len()).sum::<usize>()
            }
            Self::Settlement(Disposal::Release { .. }, _) => 0,
        }
    }
}

/// Names one message, over all of its deliveries and copies.
///
/// The id alone would not do: senders may write the attribute from which a copy's id is read. Whoever
/// sends the same bytes and attributes in another's name gets the result of that same job, sent to
/// where that job's result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(queue: &str, message: &Message) -> Self {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        };
        add(queue.as_bytes());
        add(message.id.as_bytes());
        add(message.group.as_deref().unwrap_or_default().as_bytes());
        for (name, value) in &message.attributes {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        add(&message.body);
        Self(digest.finalize().into())
    }
}

/// The results that are kept.
#[derive(Debug, Default)]
pub(super) struct KeptResults {
    /// How many there are. Read without the lock for every message.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// By tenant, in the order in which they were kept.
    tenants: HashMap<String, Tenant>,
    bytes: usize,
    next: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    order: BTreeMap<u64, Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    tenant: String,
    number: u64,
    bytes: usize,
    since: Instant,
    kept: Kept,
}

impl KeptResults {
    /// Keeps a result.
    pub(super) fn keep(&self, key: Key, tenant: &str, kept: Kept) {
        let mut inner = self.inner();
        inner.remove(key);
        let bytes = kept.bytes().saturating_add(512 + tenant.len());
        if bytes <= BYTES {
            inner.insert(key, tenant, bytes, kept);
        } else {
            dropped(1);
        }
        let mut count = 0;
        while inner.entries.len() > MOST || inner.bytes > BYTES {
            if !inner.evict() {
                break;
            }
            count += 1;
        }
        dropped(count);
        self.counted(&inner);
    }

    /// Takes what was kept for a message.
    pub(super) fn take(&self, key: impl FnOnce() -> Key) -> Option<Kept> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let key = key();
        let mut inner = self.inner();
        let entry = inner.remove(key)?;
        self.counted(&inner);
        (entry.since.elapsed() < TIME).then_some(entry.kept)
    }

    fn counted(&self, inner: &Inner) {
        self.count.store(inner.entries.len(), Ordering::Relaxed);
        let count = u32::try_from(inner.entries.len()).unwrap_or(u32::MAX);
        gauge!("lovage_kept_results").set(f64::from(count));
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves what is counted at most a little wrong, never what is kept.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(&mut self, key: Key, tenant: &str, bytes: usize, kept: Kept) {
        let number = self.next;
        self.next += 1;
        let of_tenant = self.tenants.entry(tenant.to_owned()).or_default();
        of_tenant.order.insert(number, key);
        of_tenant.bytes += bytes;
        self.bytes += bytes;
        let entry = Entry { tenant: tenant.to_owned(), number, bytes, since: Instant::now(), kept };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if let Some(tenant) = self.tenants.get_mut(&entry.tenant) {
            tenant.order.remove(&entry.number);
            tenant.bytes = tenant.bytes.saturating_sub(entry.bytes);
            if tenant.order.is_empty() {
                self.tenants.remove(&entry.tenant);
            }
        }
        Some(entry)
    }

    /// Drops the oldest of the tenant that has the most. False where there is nothing.
    fn evict(&mut self) -> bool {
        let most = self.tenants.values().max_by_key(|it| (it.bytes, it.order.len()));
        let Some(key) = most.and_then(|it| it.order.values().next().copied()) else { return false };
        self.remove(key).is_some()
    }
}

fn dropped(count: u64) {
    if count > 0 {
        counter!("lovage_kept_results_dropped_total").increment(count);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use lovage_core::broker::{KeptResult, Receipt};

    fn settlement(bytes: usize) -> Kept {
        let envelope = Bytes::from(vec![0; bytes]);
        let result = Some(KeptResult { tenant: String::new(), job_id: "j".to_owned(), envelope });
        Kept::Settlement(Disposal::Finish { result, sends: Vec::new() }, None)
    }

    fn message(id: &str, body: &str) -> Message {
        Message {
            id: id.to_owned(),
            receipt: Receipt("r".into()),
            body: body.to_owned().into(),
            attributes: [("a".to_owned(), "1".to_owned())].into(),
            group: None,
            attempt: 1,
            sent_at: None,
            not_before: None,
            trace_header: None,
        }
    }

    fn key(id: &str) -> Key {
        Key::of("q", &message(id, "1"))
    }

    #[test]
    fn a_kept_result_is_taken_once_by_the_message_that_it_is_of() {
        let kept = KeptResults::default();
        kept.keep(key("m"), "acme", settlement(1));
        let mut forged = message("m", "1");
        forged.attributes.insert("b".to_owned(), String::new());
        let other_group = Message { group: Some("a".to_owned()), ..message("m", "1") };
        for other in [message("m", "2"), message("n", "1"), forged, other_group] {
            assert!(kept.take(|| Key::of("q", &other)).is_none(), "{other:?}");
        }
        assert!(kept.take(|| Key::of("p", &message("m", "1"))).is_none());
        // Another delivery, counted anew.
        let again = Message { receipt: Receipt("s".into()), attempt: 3, ..message("m", "1") };
        assert!(kept.take(|| Key::of("q", &again)).is_some());
        assert!(kept.take(|| panic!("nothing is left to look for")).is_none());
    }

    #[test]
    fn who_keeps_the_most_displaces_its_own() {
        let kept = KeptResults::default();
        kept.keep(key("small"), "small", settlement(1000));
        for n in 0..200 {
            kept.keep(key(&format!("big {n}")), "big", settlement(1 << 20));
        }
        assert!(kept.inner().bytes <= BYTES);
        assert!(kept.take(|| key("small")).is_some());
        assert!(kept.take(|| key("big 0")).is_none());
        assert!(kept.take(|| key("big 199")).is_some());
        kept.keep(key("huge"), "huge", settlement(BYTES + 1));
        assert!(kept.take(|| key("huge")).is_none());
        assert!(kept.take(|| key("big 198")).is_some(), "what does not fit displaces nobody");
    }

    #[test]
    fn no_more_are_kept_than_there_may_be() {
        let kept = KeptResults::default();
        for n in 0..MOST + 10 {
            kept.keep(key(&n.to_string()), "acme", settlement(0));
        }
        assert_eq!(kept.inner().entries.len(), MOST);
        for n in 0..MOST + 10 {
            assert_eq!(kept.take(|| key(&n.to_string())).is_some(), n >= 10, "{n}");
        }
        let inner = kept.inner();
        assert_eq!((inner.bytes, inner.tenants.len()), (0, 0));
    }
}
