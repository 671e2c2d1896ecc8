//! Broker errors, and which of them a retry may cure.

use std::fmt;

/// The kind of a [`BrokerError`]: what a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Passing: network, throttling, a busy or full disk. Try again later.
    Unavailable,
    /// The queue does not exist.
    NotFound,
    /// Credentials are missing, wrong, or do not allow it.
    Denied,
    /// The message is over the broker's size limit.
    TooLarge,
    /// The broker refuses the request as it stands; the same again would fail again.
    Invalid,
    /// The receipt no longer names a delivery: the lease was lost, or the message is settled.
    Stale,
    /// This broker cannot do that.
    Unsupported,
}

impl Fault {
    /// Returns true if the same call may succeed later without anybody changing the message.
    ///
    /// Missing queues and permissions count: an operator mends those while the worker runs.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Unavailable | Self::NotFound | Self::Denied)
    }
}

/// A broker's refusal: what failed, on which queue, why, and what to do.
#[derive(Debug)]
pub struct BrokerError {
    /// The kind.
    pub fault: Fault,
    /// The whole story in one line: what was being done, on which queue, why it failed, and what
    /// to do about it. Never holds a payload or a secret.
    pub message: String,
    /// What lies beneath, if anything.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// The broker does not accept who we are, whatever is asked of it: expired or wrong
    /// credentials. Says nothing about the queue or the message.
    pub identity: bool,
}

impl BrokerError {
    /// An error without anything beneath.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), source: None, identity: false }
    }

    /// An error that another one caused.
    pub fn caused_by(
        fault: Fault,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { fault, message: message.into(), source: Some(source.into()), identity: false }
    }

    /// Marks an error as one about who we are.
    #[must_use]
    pub const fn about_identity(mut self, identity: bool) -> Self {
        self.identity = identity;
        self
    }

    /// True where the queue or the broker refuses what was asked, rather than being away: the same
    /// again fails until somebody changes the queue, a permission or the message.
    pub const fn is_refusal(&self) -> bool {
        !self.identity && !matches!(self.fault, Fault::Unavailable | Fault::Stale)
    }

    /// True where nothing but another message helps.
    pub const fn is_final(&self) -> bool {
        self.is_refusal() && !self.fault.may_pass()
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BrokerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
