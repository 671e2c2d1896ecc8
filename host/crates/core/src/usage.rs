//! Resource usage: of one attempt, and summed by task and tenant.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrics::{Counter, counter};
use serde::{Deserialize, Serialize};

/// The resources that one attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time spent on the guest's behalf, instantiation included.
    pub cpu: Duration,
    /// From the beginning of the attempt to its end.
    pub wall: Duration,
    /// The most that its memories and tables held at once, in bytes.
    pub peak_memory_bytes: u64,
    /// Memory over time: bytes of memories and tables, times the milliseconds that they were held.
    pub memory_byte_ms: u64,
    /// How often it called the host.
    pub host_calls: u64,
    /// Bytes that came in: the payload, HTTP responses, values read from buckets.
    pub bytes_in: u64,
    /// Bytes that went out: the output, HTTP requests, values written to buckets, follow-on jobs.
    pub bytes_out: u64,
}

/// A [`Usage`] as it is shown and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of `Usage`; times are in microseconds")]
pub struct Cost {
    pub cpu_us: u64,
    pub wall_us: u64,
    pub peak_memory_bytes: u64,
    pub memory_byte_ms: u64,
    pub host_calls: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl From<Usage> for Cost {
    fn from(usage: Usage) -> Self {
        Self {
            cpu_us: micros(usage.cpu),
            wall_us: micros(usage.wall),
            peak_memory_bytes: usage.peak_memory_bytes,
            memory_byte_ms: usage.memory_byte_ms,
            host_calls: usage.host_calls,
            bytes_in: usage.bytes_in,
            bytes_out: usage.bytes_out,
        }
    }
}

/// Whole microseconds.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What all attempts at one task for one tenant cost since the process began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Total {
    /// The task.
    pub task: String,
    /// The tenant; empty for jobs without one, [`OTHERS`] for all that are not told apart.
    pub tenant: String,
    /// How many attempts there were, whatever they came to.
    pub attempts: u64,
    /// CPU time in microseconds.
    pub cpu_us: u64,
    /// Wall time in microseconds.
    pub wall_us: u64,
    /// Bytes of memory times milliseconds.
    pub memory_byte_ms: u64,
    /// Calls of the host.
    pub host_calls: u64,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
}

/// Tenants that are not told apart.
pub const OTHERS: &str = "other";

/// How many tenants are told apart where none are configured. Senders choose their names, and each
/// is kept for as long as the process lives.
const MOST_TENANTS: usize = 200;

/// The sums by task and tenant. What is added is counted for metrics, too: to whatever recorder of the
/// `metrics` crate the process has when it is a task's first for a tenant.
#[derive(Debug, Default)]
pub struct Totals {
    /// The configured tenants; when there are any, no others are told apart.
    configured: BTreeSet<String>,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    by_task: BTreeMap<String, BTreeMap<String, Sum>>,
    tenants: BTreeSet<String>,
}

/// A total, and the same for metrics: to find a counter by its name and labels takes longer than all
/// else that is done here.
#[derive(Debug)]
struct Sum {
    total: Total,
    counters: [Counter; 7],
}

impl Sum {
    fn new(task: &str, tenant: &str) -> Self {
        let total = Total { task: task.to_owned(), tenant: tenant.to_owned(), ..Total::default() };
        let labels = [("task", total.task.clone()), ("tenant", total.tenant.clone())];
        let counters = [
            "lovage_usage_attempts_total",
            "lovage_usage_cpu_us_total",
            "lovage_usage_wall_us_total",
            "lovage_usage_memory_byte_ms_total",
            "lovage_usage_host_calls_total",
            "lovage_usage_bytes_in_total",
            "lovage_usage_bytes_out_total",
        ]
        .map(|name| counter!(name, &labels));
        Self { total, counters }
    }

    fn add(&mut self, usage: Usage) {
        let (total, cost) = (&mut self.total, Cost::from(usage));
        let all = [
            (&mut total.attempts, 1),
            (&mut total.cpu_us, cost.cpu_us),
            (&mut total.wall_us, cost.wall_us),
            (&mut total.memory_byte_ms, cost.memory_byte_ms),
            (&mut total.host_calls, cost.host_calls),
            (&mut total.bytes_in, cost.bytes_in),
            (&mut total.bytes_out, cost.bytes_out),
        ];
        for ((sum, more), counter) in all.into_iter().zip(&self.counters) {
            *sum = sum.saturating_add(more);
            counter.increment(more);
        }
    }
}

impl Totals {
    /// Sums for these tenants, or where there are none for those that come first.
    pub fn new(tenants: impl IntoIterator<Item = String>) -> Self {
        Self { configured: tenants.into_iter().collect(), sums: Mutex::default() }
    }

    /// Adds an attempt at a task that is served.
    pub fn add(&self, task: &str, tenant: &str, usage: Usage) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = if tenant.is_empty() || self.tells_apart(&mut sums.tenants, tenant) {
            tenant
        } else {
            OTHERS
        };
        let tenants = match sums.by_task.get_mut(task) {
            Some(tenants) => tenants,
            None => sums.by_task.entry(task.to_owned()).or_default(),
        };
        match tenants.get_mut(tenant) {
            Some(sum) => sum.add(usage),
            None => {
                tenants
                    .entry(tenant.to_owned())
                    .or_insert_with(|| Sum::new(task, tenant))
                    .add(usage);
            }
        }
    }

    /// All sums, by task and tenant.
    pub fn all(&self) -> Vec<Total> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let all = sums.by_task.values().flat_map(BTreeMap::values);
        all.map(|sum| sum.total.clone()).collect()
    }

    fn tells_apart(&self, seen: &mut BTreeSet<String>, tenant: &str) -> bool {
        if !self.configured.is_empty() {
            return self.configured.contains(tenant);
        }
        if seen.contains(tenant) {
            return true;
        }
        let room = seen.len() < MOST_TENANTS;
        if room {
            seen.insert(tenant.to_owned());
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage { cpu: Duration::from_micros(7), host_calls: 2, ..Usage::default() }
    }

    #[test]
    fn attempts_are_summed_by_task_and_tenant() {
        let totals = Totals::default();
        for (task, tenant) in [("b", "acme"), ("a", "acme"), ("b", ""), ("b", "acme")] {
            totals.add(task, tenant, usage());
        }
        let all = totals.all();
        let seen: Vec<_> = all
            .iter()
            .map(|it| (&*it.task, &*it.tenant, it.attempts, it.cpu_us, it.host_calls))
            .collect();
        assert_eq!(seen, [("a", "acme", 1, 7, 2), ("b", "", 1, 7, 2), ("b", "acme", 2, 14, 4)]);
    }

    #[test]
    fn senders_cannot_fill_the_memory_with_names_of_tenants() {
        let totals = Totals::default();
        for tenant in 0..10_000 {
            totals.add("a", &format!("t{tenant}"), usage());
        }
        let all = totals.all();
        assert_eq!(all.len(), MOST_TENANTS + 1);
        let other = all.iter().find(|total| total.tenant == OTHERS).unwrap();
        assert_eq!(other.attempts, 10_000 - MOST_TENANTS as u64);
        // Who was there first is still told apart.
        totals.add("b", "t7", usage());
        assert_eq!(tenants_of(&totals, "b"), ["t7"]);

        let totals = Totals::new(["acme".to_owned()]);
        for tenant in ["acme", "", "stranger"] {
            totals.add("a", tenant, usage());
        }
        assert_eq!(tenants_of(&totals, "a"), ["", "acme", OTHERS]);
    }

    fn tenants_of(totals: &Totals, task: &str) -> Vec<String> {
        let all = totals.all().into_iter().filter(|total| total.task == task);
        all.map(|total| total.tenant).collect()
    }
}
