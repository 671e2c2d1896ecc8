//! What a guest reads by `wasi:config/store`: the values and secrets that its task and tenant were
//! granted, put together before it starts.

use std::time::Instant;

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use wasmtime_wasi_config::WasiConfigVariables;

use super::services::Services;
use lovage_core::outcome::{Failure, Outcome};
use lovage_policy::Grants;
use lovage_services::secrets::{Secret, SecretValue};

/// The kind of the failure of an attempt that did not begin for want of a secret.
pub const SECRET_UNAVAILABLE: &str = "secret_unavailable";

/// What a guest has in place of a secret that it must not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// What the guest has.
    pub text: String,
    /// What it stands for.
    pub value: SecretValue,
    /// The requests that may have the value, as rules of `only_for`.
    pub only_for: Vec<String>,
}

/// What one attempt reads, and what of it is not what it looks like.
#[derive(Default)]
pub(super) struct ConfigValues {
    pub(super) variables: WasiConfigVariables,
    pub(super) placeholders: Vec<Placeholder>,
}

/// What one attempt reads, as one process looks it up for another. Holds secrets, and shows none.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct GivenConfig {
    variables: Vec<(String, String)>,
    /// What the guest has, what it stands for, and the requests that may have that.
    placeholders: Vec<(String, String, Vec<String>)>,
}

impl std::fmt::Debug for GivenConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenConfig").finish_non_exhaustive()
    }
}

impl GivenConfig {
    /// As an attempt has it.
    pub(super) fn values(&self) -> ConfigValues {
        let mut values = ConfigValues::default();
        for (key, value) in &self.variables {
            values.variables.insert(key.as_str(), value.as_str());
        }
        let placeholders = self.placeholders.iter().cloned();
        values.placeholders = placeholders
            .map(|(text, value, only_for)| Placeholder {
                text,
                value: SecretValue::new(value),
                only_for,
            })
            .collect();
        values
    }
}

/// The same as something that can be given to another process.
#[cfg(feature = "isolation")]
pub(super) async fn given(
    services: &Services,
    grants: &Grants,
    deadline: Instant,
) -> Result<GivenConfig, Outcome> {
    found(services, grants, deadline).await
}

/// Puts together what a guest was granted, for an attempt in this process.
pub(super) async fn values(
    services: &Services,
    grants: &Grants,
    deadline: Instant,
) -> Result<ConfigValues, Outcome> {
    found(services, grants, deadline).await.map(|given| given.values())
}

/// Puts together what a guest was granted. Secrets are looked up at once, all that there are; one
/// that cannot be had until the deadline ends the attempt before it begins, since it may be there
/// at the next.
async fn found(
    services: &Services,
    grants: &Grants,
    deadline: Instant,
) -> Result<GivenConfig, Outcome> {
    let mut found = GivenConfig::default();
    for (key, value) in grants.config.iter().flatten() {
        found.variables.push((key.clone(), value.clone()));
    }
    if grants.secrets.is_empty() {
        return Ok(found);
    }
    let lookups = grants.secrets.iter().map(|(key, name)| async move {
        let secret = services.secrets.get(name).await.map_err(|_| unavailable(key, name))?;
        Ok((key, secret))
    });
    let secrets = tokio::time::timeout_at(deadline.into(), try_join_all(lookups)).await;
    let secrets = secrets.unwrap_or_else(|_elapsed| {
        let mut keys = grants.secrets.iter();
        Err(keys.next().map_or_else(|| unavailable("", ""), |(key, name)| unavailable(key, name)))
    })?;
    for (key, Secret { value, only_for }) in secrets {
        match only_for {
            None => {
                found.variables.push((key.clone(), value.expose().to_owned()));
            }
            Some(only_for) => {
                // Random even where the task is deterministic: who could tell it beforehand could
                // have a guest carry the secret to another place of a request.
                let text = format!("lovage-secret-{}", uuid::Uuid::new_v4().simple());
                found.variables.push((key.clone(), text.clone()));
                let value = value.expose().to_owned();
                found.placeholders.push((text, value, only_for.to_vec()));
            }
        }
    }
    Ok(found)
}

/// Results go to senders, so they name the secret, and the log has the rest.
fn unavailable(key: &str, name: &str) -> Outcome {
    let message = format!(
        "the secret `{name}`, which `wasi:config/store` has as `{key}`, cannot be had now; the \
         host's log says why"
    );
    Outcome::Retry { failure: Failure::new(SECRET_UNAVAILABLE, message), after: None }
}
