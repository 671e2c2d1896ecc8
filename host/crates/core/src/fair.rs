//! Fair queue: chooses the next item by tenant when there are more items than places.
//!
//! Turns take time, and it is time that is shared, not turns: each tenant has a clock of its own
//! that runs while the tenant is served, the slower the more it weighs, and the next turn is for
//! whose clock is furthest behind. Who comes back after a while is set to where the others are:
//! time that was not wanted is lost, and cannot be saved up to keep others waiting later. Within
//! a tenant, who comes first is served first; but those that are new take turns with those that go
//! on, so that a short job does not wait for a crowd of long ones.
//!
//! This is start-time fair queueing. Nothing here knows threads, jobs or time of day.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How far a tenant's clock may stay behind that of the others while it always wants something,
/// but could not have its share (one job cannot be on two processors). Without a bound that
/// would be saved up, too.
const ARREARS: Duration = Duration::from_millis(20);

/// A clock's reading: nanoseconds for a weight of 1, times 2³².
type Reading = u128;

/// Work that waits for its turn, by tenant.
#[derive(Debug)]
pub struct FairQueue<T> {
    tenants: HashMap<Arc<str>, Share<T>>,
    /// Tenants for which something waits, in the order of their turns.
    next: BTreeSet<(Reading, Arc<str>)>,
    /// Tenants that want nothing just now, but have had more than others: it is not forgotten
    /// until the others have had as much.
    ahead: BTreeSet<(Reading, Arc<str>)>,
    /// Where the clocks are of those that are served: the last one that had a turn.
    now: Reading,
    /// What a turn is taken to last until it is known.
    turn: Duration,
    waiting: usize,
    running: usize,
}

/// What a tenant has of it.
#[derive(Debug)]
struct Share<T> {
    clock: Reading,
    weight: u32,
    fresh: VecDeque<T>,
    rest: VecDeque<T>,
    /// True if the last turn was for a new one.
    fresh_was_last: bool,
    running: usize,
}

impl<T> Share<T> {
    fn waits(&self) -> bool {
        !self.fresh.is_empty() || !self.rest.is_empty()
    }

    fn price(&self, time: Duration) -> Reading {
        price(time, self.weight)
    }

    fn take(&mut self) -> Option<T> {
        self.fresh_was_last =
            !self.fresh.is_empty() && (!self.fresh_was_last || self.rest.is_empty());
        if self.fresh_was_last { self.fresh.pop_front() } else { self.rest.pop_front() }
    }
}

fn price(time: Duration, weight: u32) -> Reading {
    (time.as_nanos() << 32) / Reading::from(weight.max(1))
}

impl<T> FairQueue<T> {
    /// An empty queue. `turn` is what one turn usually lasts.
    pub fn new(turn: Duration) -> Self {
        Self {
            tenants: HashMap::new(),
            next: BTreeSet::new(),
            ahead: BTreeSet::new(),
            now: 0,
            turn,
            waiting: 0,
            running: 0,
        }
    }

    /// How many wait for a turn.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns true if something waits that is another tenant's.
    pub fn others_wait(&self, tenant: &str) -> bool {
        self.next.iter().any(|(_, waiting)| **waiting != *tenant)
    }

    /// Takes in something that has yet to have its first turn, or that has rested since its last
    /// (`fresh` tells which).
    pub fn push(&mut self, tenant: &Arc<str>, weight: u32, item: T, fresh: bool) {
        self.waiting += 1;
        self.change(tenant, |share, now| {
            if !share.waits() && share.running == 0 {
                share.clock = share.clock.max(now);
            }
            share.weight = weight;
            let queue = if fresh { &mut share.fresh } else { &mut share.rest };
            queue.push_back(item);
        });
    }

    /// Takes the next item. Call [`end`](Self::end) when its turn ends.
    pub fn pop(&mut self) -> Option<(Arc<str>, T)> {
        let (clock, tenant) = self.next.first()?.clone();
        self.now = self.now.max(clock);
        let turn = self.turn;
        let item = self.change(&tenant, |share, _| {
            // Until it is known how long this turn lasts, so that several at once are shared, too.
            share.clock += share.price(turn);
            share.running += 1;
            share.take()
        })?;
        self.waiting -= 1;
        self.running += 1;
        self.settle_up();
        Some((tenant, item))
    }

    /// A turn of the tenant has ended that took so long; `again` is what it goes on with at once.
    pub fn end(&mut self, tenant: &Arc<str>, took: Duration, again: Option<T>) {
        let turn = self.turn;
        self.running = self.running.saturating_sub(1);
        self.waiting += usize::from(again.is_some());
        self.change(tenant, |share, now| {
            share.running = share.running.saturating_sub(1);
            let clock = share.clock.saturating_sub(share.price(turn)) + share.price(took);
            share.clock = clock.max(now.saturating_sub(price(ARREARS, 1)));
            share.rest.extend(again);
        });
        if self.running == 0 && self.waiting == 0 {
            // Nobody was kept waiting, so that nobody owes anything.
            self.tenants.clear();
            self.ahead.clear();
            self.now = 0;
        }
    }

    /// Counts time that a tenant had without having waited for a turn.
    pub fn charge(&mut self, tenant: &Arc<str>, weight: u32, took: Duration) {
        self.change(tenant, |share, now| {
            share.weight = weight;
            share.clock = share.clock.max(now) + price(took, weight);
        });
    }

    /// How much more time a tenant has had than those that are served now; for a weight of 1.
    pub fn ahead(&self, tenant: &str) -> Duration {
        let clock = self.tenants.get(tenant).map_or(0, |share| share.clock);
        let ahead = clock.saturating_sub(self.now) >> 32;
        Duration::from_nanos(u64::try_from(ahead).unwrap_or(u64::MAX))
    }

    /// Changes a tenant's share, and puts the tenant where it then belongs.
    fn change<R>(
        &mut self,
        tenant: &Arc<str>,
        change: impl FnOnce(&mut Share<T>, Reading) -> R,
    ) -> R {
        let now = self.now;
        let mut share = self.tenants.remove(tenant).unwrap_or_else(|| Share {
            clock: now,
            weight: 1,
            fresh: VecDeque::new(),
            rest: VecDeque::new(),
            fresh_was_last: false,
            running: 0,
        });
        let place = (share.clock, Arc::clone(tenant));
        self.next.remove(&place);
        self.ahead.remove(&place);
        let result = change(&mut share, now);
        let place = (share.clock, Arc::clone(tenant));
        if share.waits() {
            self.next.insert(place);
        } else if share.running == 0 {
            if share.clock <= now {
                return result;
            }
            self.ahead.insert(place);
        }
        self.tenants.insert(Arc::clone(tenant), share);
        result
    }

    /// Forgets those who want nothing, and have had no more than others by now.
    fn settle_up(&mut self) {
        while let Some((clock, tenant)) = self.ahead.first()
            && *clock <= self.now
        {
            self.tenants.remove(tenant);
            self.ahead.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TURN: Duration = Duration::from_millis(1);

    fn name(number: usize) -> Arc<str> {
        format!("tenant-{number}").into()
    }

    /// Whose it is, with which item, and how long it takes.
    type Turn = (Arc<str>, usize, Duration);

    /// Servers that each serve one item at a time, in virtual time.
    struct Servers {
        queue: FairQueue<usize>,
        /// When each server is free again, and what it serves until then.
        busy: Vec<(Duration, Option<Turn>)>,
        served: HashMap<Arc<str>, Duration>,
        turns: Vec<Arc<str>>,
    }

    impl Servers {
        fn new(count: usize) -> Self {
            let busy = vec![(Duration::ZERO, None); count];
            Self { queue: FairQueue::new(TURN), busy, served: HashMap::new(), turns: Vec::new() }
        }

        /// Serves until that time. Items go on for ever; `lasts` says how long a turn of one is.
        fn run(&mut self, until: Duration, lasts: impl Fn(&str, usize) -> Duration) {
            loop {
                let server = self.busy.iter_mut().min_by_key(|(at, _)| *at).unwrap();
                if server.0 >= until {
                    return;
                }
                let now = server.0;
                if let Some((tenant, item, took)) = server.1.take() {
                    *self.served.entry(Arc::clone(&tenant)).or_default() += took;
                    self.queue.end(&tenant, took, Some(item));
                }
                let Some((tenant, item)) = self.queue.pop() else {
                    server.0 = now + TURN;
                    continue;
                };
                let took = lasts(&tenant, item);
                self.turns.push(Arc::clone(&tenant));
                *server = (now + took, Some((tenant, item, took)));
            }
        }

        fn served(&self, tenant: usize) -> f64 {
            self.served.get(&name(tenant)).map_or(0.0, Duration::as_secs_f64)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever the number of their items and the length of their turns.
        #[test]
        fn in_the_long_run_time_is_shared_by_weight(
            servers in 1_usize..4,
            tenants in prop::collection::vec((1_u32..20, 4_usize..30, 1_u64..12), 2..6),
        ) {
            let mut all = Servers::new(servers);
            for (number, (weight, items, _)) in tenants.iter().enumerate() {
                for item in 0..*items {
                    all.queue.push(&name(number), *weight, item, true);
                }
            }
            let long = Duration::from_secs(10);
            all.run(long, |tenant, _| {
                let number: usize = tenant.trim_start_matches("tenant-").parse().unwrap();
                TURN * u32::try_from(tenants[number].2).unwrap()
            });
            let weights: u32 = tenants.iter().map(|(weight, ..)| weight).sum();
            let total = long.as_secs_f64() * servers as f64;
            for (number, (weight, ..)) in tenants.iter().enumerate() {
                let fair = total * f64::from(*weight) / f64::from(weights);
                let share = all.served(number);
                prop_assert!((share - fair).abs() < fair * 0.1 + 0.2, "{number}: {share} of {fair}");
            }
        }

        /// A tenant of whatever weight has a turn before others have had much of the time.
        #[test]
        fn nobody_starves(weight in 1_u32..5, others in 1_usize..20, heavy in 1_u32..50) {
            let mut all = Servers::new(1);
            all.queue.push(&name(0), weight, 0, true);
            for other in 1..=others {
                for item in 0..10 {
                    all.queue.push(&name(other), heavy, item, true);
                }
            }
            all.run(Duration::from_secs(5), |_, _| TURN);
            // In turns: how many of the others' come to one of its own, and some more.
            let most = (others * heavy as usize).div_ceil(weight as usize) + 2 * others + 2;
            for turns in all.turns.windows(most) {
                prop_assert!(turns.iter().any(|tenant| *tenant == name(0)), "{most}");
            }
        }

        /// Nothing that is done in any order breaks the counts, and all comes out.
        #[test]
        fn all_that_goes_in_comes_out(
            steps in prop::collection::vec((0_usize..5, 0_u8..5, 0_u64..20_000, any::<u32>()), 0..400),
        ) {
            let mut queue = FairQueue::new(TURN);
            let (mut pushed, mut popped) = (0, 0);
            let mut running = Vec::new();
            for (tenant, step, micros, weight) in steps {
                let took = Duration::from_micros(micros);
                match step {
                    0 | 1 => {
                        queue.push(&name(tenant), weight, pushed, step == 0);
                        pushed += 1;
                    }
                    2 => queue.charge(&name(tenant), weight, took),
                    3 => {
                        if let Some((tenant, _)) = queue.pop() {
                            popped += 1;
                            running.push(tenant);
                        }
                    }
                    _ => {
                        if let Some(tenant) = running.pop() {
                            queue.end(&tenant, took, None);
                        }
                    }
                }
                prop_assert_eq!(queue.waiting(), pushed - popped);
            }
            while let Some((tenant, _)) = queue.pop() {
                popped += 1;
                running.push(tenant);
            }
            for tenant in running {
                queue.end(&tenant, TURN, None);
            }
            prop_assert_eq!(pushed, popped);
            prop_assert!(pushed == 0 || queue.tenants.is_empty());
        }
    }

    #[test]
    fn who_was_idle_has_saved_nothing() {
        let mut all = Servers::new(1);
        for item in 0..5 {
            all.queue.push(&name(0), 1, item, true);
        }
        all.run(Duration::from_secs(10), |_, _| TURN);
        for item in 0..50 {
            all.queue.push(&name(1), 1, item, true);
        }
        let before = all.served(0);
        all.run(Duration::from_secs(11), |_, _| TURN);
        let (old, new) = (all.served(0) - before, all.served(1));
        assert!((old - new).abs() < 0.01, "{old} and {new}");
    }

    /// One job cannot be on two processors. What it could have had is not had later.
    #[test]
    fn who_could_not_have_its_share_has_saved_next_to_nothing() {
        let mut all = Servers::new(2);
        all.queue.push(&name(0), 10, 0, true);
        for item in 0..10 {
            all.queue.push(&name(1), 1, item, true);
        }
        all.run(Duration::from_secs(10), |_, _| TURN);
        assert!((all.served(0) - all.served(1)).abs() < 0.1);
        // Now it has more to do, and both weigh the same.
        for item in 1..10 {
            all.queue.push(&name(0), 1, item, true);
        }
        let before = all.served(1);
        all.run(Duration::from_secs(11), |_, _| TURN);
        let part = (all.served(1) - before) / 2.0;
        assert!((0.45..0.55).contains(&part), "{part}");
    }

    #[test]
    fn what_was_had_without_a_turn_counts_until_others_have_had_as_much() {
        let mut queue = FairQueue::new(TURN);
        let (busy, other) = (name(0), name(1));
        queue.push(&other, 1, 0, true);
        queue.charge(&busy, 2, Duration::from_millis(20));
        assert_eq!(queue.ahead(&busy), Duration::from_millis(10));
        assert!(queue.others_wait(&busy) && !queue.others_wait(&other));
        for _ in 0..12 {
            let (tenant, item) = queue.pop().unwrap();
            assert_eq!(tenant, other);
            queue.end(&tenant, TURN, Some(item));
        }
        assert_eq!(queue.ahead(&busy), Duration::ZERO);
        assert!(queue.ahead.is_empty());
    }

    #[test]
    fn new_ones_take_turns_with_those_that_go_on() {
        let mut queue = FairQueue::new(TURN);
        let tenant = name(0);
        for item in 0..3 {
            queue.push(&tenant, 1, item, false);
        }
        for item in 10..13 {
            queue.push(&tenant, 1, item, true);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect();
        assert_eq!(order, [10, 0, 11, 1, 12, 2]);
    }
}
