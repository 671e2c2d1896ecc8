//! What each tenant has of a worker: places, a rate, and its share of the CPU.
//!
//! A job is admitted before it runs: while its tenant has fewer than its quota ([`Refused`] says
//! otherwise, and when to try again) and while its rate allows it. Before a receive the worker asks
//! whose messages it should be for ([`Tenancy::outlook`]): not those of tenants that would be
//! refused, and those of tenants that have had more than their share only if nothing else is ready.
//! Jobs without a tenant are bound by nothing here.
//!
//! CPU is counted as virtual time: what a tenant's attempts have used, by its weight. A tenant that
//! comes (back) begins where the one with the least is now, so that nobody saves up by being away.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::clock::Clock as _;
use tokio_util::sync::CancellationToken;

use self::account::{Account, Rate};
use lovage_config::{Config, TenantConfig};
use lovage_core::{broker::Turn, group_id};

mod account;

/// How far a tenant may be ahead of the one that had the least, in CPU time by weight.
const LAG: Duration = Duration::from_millis(50);

/// For how long a tenant counts as there after its last job.
const LATELY: Duration = Duration::from_secs(2);

/// Accounts that are kept without being looked through for those that can be closed.
const KEPT: usize = 256;

/// All tenants of one worker.
#[derive(Debug)]
pub struct Tenancy {
    /// The quota of tenants that have none of their own.
    each: usize,
    settings: HashMap<Arc<str>, Settings>,
    /// How many messages one receive may bring of those that have settings of their own.
    usual: Arc<HashMap<Arc<str>, usize>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Settings {
    concurrency: usize,
    weight: f64,
    rate: Option<Rate>,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<Arc<str>, Account>,
    /// The virtual time of the tenant that had the least, in seconds; it only grows.
    floor: f64,
    /// Receives under way that leave tenants alone.
    outlooks: HashMap<u64, (Turn, CancellationToken)>,
    next_outlook: u64,
    /// When accounts are looked through, by their number.
    tidy_at: usize,
}

/// A tenant's place for one job; dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    tenancy: Arc<Tenancy>,
    tenant: Arc<str>,
    since: Instant,
}

/// What a tenant has no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Its jobs hold as many places as they may.
    Places,
    /// As many began as may in the time.
    Rate,
}

impl Want {
    /// In a word, for logs and counts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Places => "concurrency",
            Self::Rate => "rate",
        }
    }
}

/// Why a job cannot run now, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What is wanting.
    pub want: Want,
    /// Not before this has passed.
    pub after: Duration,
    /// True if it is to be told in the log: once in a while for each tenant.
    pub tell: bool,
}

/// Whose messages a receive should be for.
#[derive(Debug)]
pub struct Outlook {
    /// What to ask the broker for.
    pub turn: Turn,
    /// When a tenant that is left alone need be no longer, by its rate.
    pub until: Option<Instant>,
    /// Ends when a tenant that is left alone has a place again.
    pub stale: CancellationToken,
    tenancy: Arc<Tenancy>,
    number: u64,
}

impl Tenancy {
    /// The tenants that a configuration describes.
    pub fn new(config: &Config) -> Arc<Self> {
        let places = config.worker.concurrency.get();
        let each = config.worker.tenant_concurrency.map_or(places * 3 / 4, Into::into);
        let each = each.max(1);
        let settings: HashMap<Arc<str>, Settings> = config
            .tenants
            .iter()
            .map(|(name, tenant)| (name.as_str().into(), Settings::new(tenant, each)))
            .collect();
        let usual = settings
            .iter()
            .filter_map(|(name, own)| {
                let burst = own.rate.as_ref().map_or(usize::MAX, |rate| rate.burst);
                let most = own.concurrency.min(burst);
                (most != each).then(|| (Arc::clone(name), most))
            })
            .flat_map(|(name, most)| {
                let group: Arc<str> = group_id::of_tenant(&name).into();
                [(name, most), (group, most)]
            })
            .collect();
        Arc::new(Self { each, settings, usual: Arc::new(usual), state: Mutex::default() })
    }

    /// Returns true if the configuration names the tenant: senders choose the names of others.
    pub fn knows(&self, tenant: &str) -> bool {
        self.settings.contains_key(tenant)
    }

    fn quota(&self, tenant: &str) -> usize {
        self.settings.get(tenant).map_or(self.each, |own| own.concurrency)
    }

    /// Admits a job, if its tenant may have one more. `None` for a job without a tenant.
    pub fn enter(self: &Arc<Self>, tenant: &str) -> Result<Option<Place>, Refused> {
        if tenant.is_empty() {
            return Ok(None);
        }
        let now = Instant::now();
        let mut state = self.state();
        state.tidy(now);
        let (floor, quota) = (state.floor, self.quota(tenant));
        let name = match state.accounts.get_key_value(tenant) {
            Some((name, _)) => Arc::clone(name),
            None => tenant.into(),
        };
        let account = state.accounts.entry(Arc::clone(&name)).or_insert_with(|| Account::new(now));
        if account.running >= quota {
            return Err(account.refuse_place(now, quota));
        }
        if let Some(rate) = self.settings.get(tenant).and_then(|own| own.rate.as_ref()) {
            match rate.limiter.check() {
                Ok(left) => {
                    let left = usize::try_from(left.remaining_burst_capacity());
                    account.allowed = Some((left.unwrap_or(usize::MAX), now));
                }
                Err(until) => {
                    let wait = until.wait_time_from(rate.limiter.clock().now());
                    // As if the last one had begun a period before the next one may.
                    let last = (now + wait).checked_sub(rate.period).unwrap_or(now);
                    account.allowed = Some((0, last));
                    return Err(account.refuse_rate(now, wait, rate.period));
                }
            }
        }
        if account.running == 0 && account.changed + LATELY <= now {
            account.time = account.time.max(floor);
        }
        account.running += 1;
        account.changed = now;
        Ok(Some(Place { tenancy: Arc::clone(self), tenant: name, since: now }))
    }

    /// Counts the CPU time of an attempt that has ended, for a tenant that has a place.
    pub fn charge(&self, tenant: &str, cpu: Duration) {
        let weight = self.settings.get(tenant).map_or(1.0, |own| own.weight);
        if let Some(account) = self.state().accounts.get_mut(tenant) {
            account.time += cpu.as_secs_f64() / weight;
        }
    }

    /// Whose messages the next receive should be for.
    pub fn outlook(self: &Arc<Self>) -> Outlook {
        let now = Instant::now();
        let mut state = self.state();
        let mut turn = Turn::new(self.each, Arc::clone(&self.usual));
        let mut until: Option<Instant> = None;
        let here = |account: &Account| account.running > 0 || account.changed + LATELY > now;
        let least = state
            .accounts
            .values()
            .filter(|account| here(account))
            .map(|account| account.time)
            .min_by(f64::total_cmp);
        if let Some(least) = least {
            state.floor = state.floor.max(least);
        }
        for (name, account) in &state.accounts {
            let mut room = self.quota(name).saturating_sub(account.running);
            if let Some(rate) = self.settings.get(name).and_then(|own| own.rate.as_ref()) {
                let (allowed, next) = account.allowed_by(rate, now);
                if allowed == 0 && room > 0 {
                    until = until.into_iter().chain([next]).min();
                }
                room = room.min(allowed);
            }
            let group = (group_id::of_tenant(name) != **name).then(|| group_id::of_tenant(name));
            let group: Option<Arc<str>> = group.map(Into::into);
            if room < turn.room(name) {
                turn.at_most(Arc::clone(name), room);
                if let Some(group) = &group {
                    turn.at_most(Arc::clone(group), room);
                }
            }
            if least.is_some_and(|least| account.time > least + LAG.as_secs_f64()) && here(account)
            {
                turn.avoid(Arc::clone(name));
                if let Some(group) = group {
                    turn.avoid(group);
                }
            }
        }
        let (number, stale) = (state.next_outlook, CancellationToken::new());
        state.next_outlook += 1;
        if turn.is_choosy() {
            state.outlooks.insert(number, (turn.clone(), stale.clone()));
        }
        drop(state);
        Outlook { turn, until, stale, tenancy: Arc::clone(self), number }
    }

    fn leave(&self, tenant: &Arc<str>, since: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(account) = state.accounts.get_mut(tenant) else { return };
        let was_full = account.running >= self.quota(tenant);
        account.running = account.running.saturating_sub(1);
        account.changed = now;
        let held = now.saturating_duration_since(since).as_secs_f64();
        account.mean += (held - account.mean) / 8.0;
        if was_full {
            for (turn, stale) in state.outlooks.values() {
                if turn.room(tenant) == 0 {
                    stale.cancel();
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counts that are whole: each change to them is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn new(tenant: &TenantConfig, each: usize) -> Self {
        Self {
            concurrency: tenant.concurrency.map_or(each, Into::into),
            weight: f64::from(tenant.weight.map_or(1, NonZeroU32::get)),
            rate: tenant.rate_per_second.and_then(|rate| Rate::new(rate, tenant.burst)),
        }
    }
}

impl State {
    /// Closes accounts that say nothing any more: what a tenant had beyond others is evened out by
    /// then, or long ago.
    fn tidy(&mut self, now: Instant) {
        const LONG_AGO: Duration = Duration::from_mins(10);
        if self.accounts.len() < self.tidy_at.max(KEPT) {
            return;
        }
        let floor = self.floor;
        self.accounts.retain(|_, account| {
            account.running > 0
                || (account.changed + LATELY > now)
                || account.allowed.is_some()
                || (account.time > floor && account.changed + LONG_AGO > now)
        });
        self.tidy_at = 2 * self.accounts.len();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tenancy.leave(&self.tenant, self.since);
    }
}

impl Drop for Outlook {
    fn drop(&mut self) {
        self.tenancy.state().outlooks.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
