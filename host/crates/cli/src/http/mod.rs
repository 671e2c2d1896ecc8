//! HTTP for operators: what a worker has counted, for those who may reach its address.
//!
//! It answers a few requests for whole texts, and takes nothing: no bodies, no second request on
//! a connection. A connection that is slow is cut off, and there are only so many: a new one takes
//! the place of the oldest that has asked for nothing. So it takes next to nothing from the jobs
//! beside it.

mod client;
mod metrics;
mod server;

pub use self::client::{AskError, get};
pub use self::metrics::{Metrics, MetricsError};
