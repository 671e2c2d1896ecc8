//! The operator's secrets: looked up where the configuration says, kept for a while, told to
//! nobody but the guest that was granted them.
//!
//! - One look-up at a time for each secret, whoever needs it, and it goes on when who asked first
//!   has left: attempts that end early do not keep others from ever having the value.
//! - A value is used for its `ttl_ms` and then looked up again. While its source is away the old
//!   one serves for [`STALE`] longer; where the source answers that the secret is gone, refused or
//!   of another shape, it does not, so that taking a secret away works.
//! - A failure is remembered for [`RETRY_AFTER`], so that a source in trouble is not asked by
//!   every job anew.
//! - No value is in any log, error or `Debug` text; see [`SecretValue`].

mod aws;
mod error;
mod known;
mod source;
mod value;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use tokio::{sync::OwnedMutexGuard, task::JoinHandle};

use self::{
    aws::Aws,
    known::{Known, Use},
    source::Source,
};
pub use self::{
    error::{SecretError, Trouble},
    known::{RETRY_AFTER, STALE},
    value::SecretValue,
};
use lovage_config::SecretConfig;
use lovage_core::events::SecretLookupFailed;

/// For how long a value is used where `ttl_ms` does not say.
pub const TTL: Duration = Duration::from_mins(5);

/// How long one look-up may take with all its retries.
const LOOK_UP: Duration = Duration::from_secs(15);

/// A secret, as it was granted.
#[derive(Debug, Clone)]
pub struct Secret {
    /// The value.
    pub value: SecretValue,
    /// When set, guests get a placeholder in the value's place, and the value itself goes only
    /// into requests that match one of these rules.
    pub only_for: Option<Arc<[String]>>,
}

/// All secrets of a configuration. Clones share what was looked up.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    entries: Arc<BTreeMap<String, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    source: Source,
    json_field: Option<String>,
    ttl: Duration,
    only_for: Option<Arc<[String]>>,
    aws: Arc<Aws>,
    known: Mutex<Known>,
    /// Held by the one look-up that is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Secrets {
    /// The secrets of a configuration that was validated. Nothing is looked up yet, and AWS is
    /// found as every AWS tool finds it when the first secret there is needed.
    pub fn new(secrets: &BTreeMap<String, SecretConfig>) -> Self {
        Self::with(secrets, Aws::default())
    }

    /// The same with a configuration of AWS clients that is already there.
    pub fn with_aws(secrets: &BTreeMap<String, SecretConfig>, config: SdkConfig) -> Self {
        Self::with(secrets, Aws::from(config))
    }

    fn with(secrets: &BTreeMap<String, SecretConfig>, aws: Aws) -> Self {
        let aws = Arc::new(aws);
        let entry = |(name, config): (&String, &SecretConfig)| {
            let entry = Entry {
                name: name.clone(),
                source: Source::of(config)?,
                json_field: config.json_field.clone(),
                ttl: config.ttl_ms.map_or(TTL, |ms| Duration::from_millis(ms.get())),
                only_for: config.only_for.as_deref().map(Into::into),
                aws: Arc::clone(&aws),
                known: Mutex::default(),
                turn: Arc::default(),
            };
            Some((name.clone(), Arc::new(entry)))
        };
        Self { entries: Arc::new(secrets.iter().filter_map(entry).collect()) }
    }

    /// The secret of that name, from memory or from its source.
    pub async fn get(&self, name: &str) -> Result<Secret, SecretError> {
        let entry = self.entries.get(name).ok_or_else(|| SecretError::unknown(name))?;
        let value = entry.value().await?;
        Ok(Secret { value, only_for: entry.only_for.clone() })
    }
}

impl Entry {
    async fn value(self: &Arc<Self>) -> Result<SecretValue, SecretError> {
        let turn = match self.known(Instant::now()) {
            Use::Value(value) => return Ok(value),
            Use::Failure(error) => return Err(error),
            // Nobody is to wait again for a source that is away.
            Use::Ask { meanwhile: Some(value) } => {
                if let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() {
                    drop(self.ask(turn));
                }
                return Ok(value);
            }
            Use::Ask { meanwhile: None } => Arc::clone(&self.turn).lock_owned().await,
        };
        // While this one waited, another may have had the answer.
        match self.known(Instant::now()) {
            Use::Value(value) => return Ok(value),
            Use::Failure(error) => return Err(error),
            Use::Ask { .. } => {}
        }
        self.ask(turn).await.unwrap_or_else(|_| {
            Err(self.source.failed(&self.name, Trouble::Away, "the look-up broke off", ""))
        })
    }

    /// Begins a look-up, which goes on whether or not its end is waited for.
    fn ask(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
    ) -> JoinHandle<Result<SecretValue, SecretError>> {
        let entry = Arc::clone(self);
        tokio::spawn(async move {
            let answer = entry.look_up().await;
            drop(turn);
            answer
        })
    }

    fn known(&self, now: Instant) -> Use {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).at(now, self.ttl)
    }

    /// Asks the source, and remembers what it says.
    async fn look_up(&self) -> Result<SecretValue, SecretError> {
        let asked = self.source.read(&self.name, &self.aws);
        let answer = match tokio::time::timeout(LOOK_UP, asked).await {
            Ok(answer) => answer.and_then(|text| self.value_of(text)),
            Err(_elapsed) => {
                let why = format!("there was no answer within {LOOK_UP:?}");
                Err(self.source.failed(&self.name, Trouble::Away, why, "see whether it is reached"))
            }
        };
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(value) => {
                known.found(value.clone(), now);
                Ok(value)
            }
            Err(error) => {
                let stale = known.failed(error.clone(), now, self.ttl);
                SecretLookupFailed { secret: &self.name, error: &error, stale: stale.is_some() }
                    .emit();
                stale.ok_or(error)
            }
        }
    }

    fn value_of(&self, text: String) -> Result<SecretValue, SecretError> {
        let text = SecretValue::new(text);
        let wrong =
            |why: String, advice: &str| self.source.failed(&self.name, Trouble::Wrong, why, advice);
        let value = match &self.json_field {
            None => text,
            Some(field) => value::field(&text, field).map_err(|why| {
                wrong(why, "mend the value, or `json_field` of the secret's settings")
            })?,
        };
        if value.expose().is_empty() {
            return Err(wrong("the value is empty".to_owned(), "give it one"));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
