//! Why a secret cannot be had.

use std::sync::Arc;

/// Whose fault it is, which decides whether an older value may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The source does not answer, or not now. It may pass.
    Away,
    /// The source answers, and the answer is no: no such secret, no permission, no such field.
    Wrong,
}

/// A secret that cannot be had: which one, from where, why, and what to do; never a value.
///
/// It names files, variables and ARNs of the operator, so it is for the operator's log. What a
/// job's sender is told is for others to word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot have the secret `{secret}` from {from}: {reason}{}", and_do(.advice))]
pub struct SecretError {
    /// The secret's name in the configuration.
    pub secret: Arc<str>,
    /// Whose fault it is.
    pub trouble: Trouble,
    /// The source, with its address.
    pub from: Arc<str>,
    /// What went wrong.
    pub reason: Arc<str>,
    /// What to do; may be empty.
    pub advice: Arc<str>,
}

fn and_do(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

impl SecretError {
    /// A secret that is in no configuration.
    pub(super) fn unknown(secret: &str) -> Self {
        Self {
            secret: secret.into(),
            trouble: Trouble::Wrong,
            from: "the configuration".into(),
            reason: "it is not there".into(),
            advice: format!("add [secrets.{secret}]").into(),
        }
    }
}
