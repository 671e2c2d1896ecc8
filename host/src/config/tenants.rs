//! Tenants: who is believed about them, and what each may have.

use std::num::{NonZeroU32, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::{GrantsConfig, TenantLimits};

/// Where the tenant of a job can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantSource {
    /// The field `tenant` of a native body.
    Body,
    /// The message attribute `lovage-tenant`.
    Attribute,
    /// The message group of a queue that is not FIFO (SQS's fair queues). For a function that is
    /// invoked: the tenant id that Lambda vouches for.
    Group,
    /// `tenant` of the queue's settings.
    Queue,
}

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
