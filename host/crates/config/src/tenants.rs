//! Tenants: who is believed about them, and what each may have.

use std::num::{NonZeroU32, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::{Config, GrantsConfig, TenantLimits};
use lovage_core::job::MAX_NAME_BYTES;
pub use lovage_core::tenant_source::TenantSource;

/// `[tenants.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantConfig {
    /// The tasks that the tenant may run; all when absent.
    pub tasks: Option<Vec<String>>,
    /// How many of the worker's jobs may be the tenant's at once; `worker.tenant_concurrency`
    /// when absent.
    pub concurrency: Option<NonZeroUsize>,
    /// How many jobs may begin in a second on one worker, on average; a message beyond it goes
    /// back until its time comes. Without bound when absent.
    pub rate_per_second: Option<f64>,
    /// How many may begin at once after a pause, within that average; a second's worth when
    /// absent.
    pub burst: Option<NonZeroU32>,
    /// The tenant's share of the CPU when several want it; 1 when absent.
    pub weight: Option<NonZeroU32>,
    /// What holds for the tenant's jobs where it is less than for the task's.
    pub limits: TenantLimits,
    /// What the tenant's jobs are granted of what the task is.
    pub grants: GrantsConfig,
}

/// What a rate can be, in jobs a second, and the most of a burst: within what can be counted in
/// nanoseconds.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;
const MAX_BURST: u32 = 1_000_000;

impl Config {
    /// Checks tenants, and what queues say of them.
    pub(super) fn check_tenants(&self) -> Result<(), String> {
        if let Some(concurrency) = self.worker.tenant_concurrency {
            super::validate::at_most("worker.tenant_concurrency", concurrency.get())?;
        }
        for (name, tenant) in &self.tenants {
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
                return Err(format!(
                    "tenants.{name:?} is no name for a tenant; it takes 1 to {MAX_NAME_BYTES} \
                     bytes and no control characters"
                ));
            }
            if let Some(concurrency) = tenant.concurrency {
                super::validate::at_most(
                    &format!("tenants.{name}.concurrency"),
                    concurrency.get(),
                )?;
            }
            if let Some(rate) = tenant.rate_per_second
                && !RATES.contains(&rate)
            {
                return Err(format!(
                    "tenants.{name}.rate_per_second is {rate}; it takes {} to {}",
                    RATES.start(),
                    RATES.end()
                ));
            }
            match (tenant.burst, tenant.rate_per_second) {
                (Some(burst), Some(_)) if burst.get() > MAX_BURST => {
                    return Err(format!("tenants.{name}.burst is {burst}; at most {MAX_BURST}"));
                }
                (Some(_), None) => {
                    return Err(format!(
                        "tenants.{name}.burst is set without a rate that it belongs to; set \
                         tenants.{name}.rate_per_second, or leave it out"
                    ));
                }
                _ => {}
            }
        }
        for (name, queue) in &self.queues {
            let from = &queue.tenant_from;
            if let Some(twice) = from.iter().enumerate().find_map(|(place, source)| {
                from.iter().take(place).any(|other| other == source).then_some(source)
            }) {
                return Err(format!("queues.{name}.tenant_from names `{}` twice", twice.as_str()));
            }
            if queue.tenant.is_some() && !from.contains(&TenantSource::Queue) {
                return Err(format!(
                    "queues.{name}.tenant is set, and queues.{name}.tenant_from does not list \
                     `queue`, so that it would hold for no job; add `queue`, or leave it out"
                ));
            }
            if queue.tenant_required && from.is_empty() {
                return Err(format!(
                    "queues.{name}.tenant_required is set, and queues.{name}.tenant_from believes \
                     nobody: every job would be rejected; list a place"
                ));
            }
        }
        Ok(())
    }
}
