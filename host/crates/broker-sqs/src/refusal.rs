//! Why a message is not sent.

use lovage_core::broker::Fault;

/// Why a message is not sent.
#[derive(Debug)]
pub(super) struct Refusal {
    pub fault: Fault,
    pub reason: String,
}
