//! Results in Redis, as Celery's Redis backend keeps them.

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError, Script};
use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Complete, Counted, Keys, PROBE_ID, PROBE_META, Part, ResultStore, StoreError, check_group,
};
use crate::redis_client::{Again, RedisClient, hint, is_away};
use lovage_celery::{Meta, State, keys};
use lovage_core::{dependency::Probe, job::JobKey};

/// How long to wait for a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For how long a chord is claimed by whoever goes on with it, in seconds: what that takes at the
/// most. When its worker dies over it, the last part's message comes again after its lease, and
/// waits for the claim to end.
const CLAIM_SECONDS: u64 = 10;
/// For how long it is remembered that a chord is over, in seconds.
const OVER_SECONDS: u64 = 300;

/// For how long the value of a probe is kept, in seconds.
const PROBE_SECONDS: &[u8] = b"60";
/// What the script that keeps a state answers where a compressed value stands.
const COMPRESSED: u64 = 3;

/// How a stored failure begins, as `Meta` writes it.
const FAILURE: &[u8] = br#"{"status": "FAILURE""#;

/// Results in Redis.
#[derive(Debug)]
pub struct RedisResults {
    redis: RedisClient,
    keys: Keys,
    /// Seconds to keep a result; for ever when 0.
    expires: u64,
    /// The same for failures, and for the parts of chords.
    failures_expire: u64,
    chords_expire: u64,
    put: Script,
    own: Script,
    part: Script,
    end: Script,
}

impl RedisResults {
    /// Results in the Redis at `url` (`redis://`, `rediss://`), kept for `expires`, for ever when
    /// that is zero. `Err` says what is wrong with the URL, without it: there may be a password in
    /// it.
    pub fn new(url: &str, keys: Keys, expires: Duration) -> Result<Self, String> {
        Ok(Self {
            redis: RedisClient::new(url, TIMEOUT).map_err(|why| format!("it is {why}"))?,
            keys,
            expires: expires.as_secs(),
            failures_expire: expires.as_secs(),
            chords_expire: expires.as_secs(),
            put: Script::new(include_str!("redis/put.lua")),
            own: Script::new(include_str!("redis/own.lua")),
            part: Script::new(include_str!("redis/part.lua")),
            end: Script::new(include_str!("redis/end.lua")),
        })
    }

    /// With times of their own for failures and for the parts of chords, where they have any.
    #[must_use]
    pub fn expiring(mut self, failures: Option<Duration>, chords: Option<Duration>) -> Self {
        self.failures_expire = failures.map_or(self.expires, |it| it.as_secs());
        self.chords_expire = chords.map_or(self.expires, |it| it.as_secs());
        self
    }

    fn key(&self, tenant: &str, key: &str) -> String {
        self.keys.prefix.key(tenant, key)
    }

    /// Sends a command. All of them come to the same, once or twice.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.redis.send(Again::Harmless, command).await.map_err(|error| self.refused(&error))
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let answer = self.redis.run(Again::Harmless, script, keys, arguments).await;
        answer.map_err(|error| self.refused(&error))
    }

    /// `SET`, for as long as results are kept.
    async fn set(&self, key: &str, value: &[u8], expires: u64) -> Result<(), StoreError> {
        let mut command = ::redis::cmd("SET");
        command.arg(key).arg(value);
        if expires > 0 {
            command.arg("EX").arg(expires);
        }
        self.ask(&command).await
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let value: Option<Vec<u8>> = self.ask(::redis::cmd("GET").arg(key)).await?;
        Ok(value.map(Bytes::from))
    }

    fn refused(&self, error: &RedisError) -> StoreError {
        let hint = hint(error, "celery.result_backend");
        let reason = format!("the result store at {}: {error}{hint}", self.redis.place());
        if is_away(error) { StoreError::Away(reason) } else { StoreError::Refused(reason) }
    }

    /// The keys of a chord: results, size, added, counted, claim.
    fn chord(&self, group: JobKey<'_>) -> [String; 5] {
        [
            keys::chord_results(group.id),
            keys::chord_size(group.id),
            keys::chord_added(group.id),
            keys::chord_counted(group.id),
            keys::chord_claim(group.id),
        ]
        .map(|key| self.key(group.tenant, &key))
    }

    fn owner(&self, group: JobKey<'_>) -> String {
        self.key(group.tenant, &keys::chord_owner(group.id))
    }

    /// Makes a chord its tenant's, or refuses. `drop` is what is left of an earlier run.
    async fn own(&self, group: JobKey<'_>, drop: Option<String>) -> Result<(), StoreError> {
        check_group(group.id)?;
        let keys: Vec<_> = [self.owner(group)].into_iter().chain(drop).collect();
        let (tenant, expires) = (keys::encoded(group.tenant), self.chords_expire.to_string());
        let ours = self.run(&self.own, &keys, &[tenant.as_bytes(), expires.as_bytes()]).await?;
        if ours { Ok(()) } else { Err(StoreError::OtherTenants) }
    }
}

/// A value with its tenant in front, where it has a mark.
fn marked(tenant: Option<&str>, meta: Bytes) -> Bytes {
    match (tenant, meta.strip_prefix(b"{")) {
        (Some(tenant), Some(rest)) => {
            let mut value = format!("{MARK}{}\",", keys::encoded(tenant)).into_bytes();
            value.extend_from_slice(rest);
            value.into()
        }
        _ => meta,
    }
}

/// How a value begins that has a mark.
const MARK: &str = r#"{"lovage_tenant":""#;

/// A value as Celery writes it, if it is the tenant's to read: what has no mark was written by
/// Celery's own workers, which know no tenants.
fn readable(tenant: &str, value: Vec<u8>) -> Option<Bytes> {
    let Some(rest) = value.strip_prefix(MARK.as_bytes()) else { return Some(value.into()) };
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let (owner, rest) = rest.split_at_checked(end)?;
    if owner != keys::encoded(tenant).as_bytes() {
        return None;
    }
    Some([b"{", rest.strip_prefix(b"\",")?].concat().into())
}

#[async_trait]
impl Probe for RedisResults {
    /// Stores a value as results are stored, so that whatever would refuse those refuses this.
    async fn probe(&self) -> Result<(), String> {
        let key = self.key("", &keys::task(PROBE_ID));
        let arguments: [&[u8]; 3] = [PROBE_META.as_bytes(), PROBE_SECONDS, b""];
        let kept: Result<u64, _> = self.run(&self.put, &[key], &arguments).await;
        kept.map(drop).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl ResultStore for RedisResults {
    async fn put(&self, job: JobKey<'_>, meta: Bytes) -> Result<bool, StoreError> {
        let key = self.key(job.tenant, &keys::task(job.id));
        let failed = meta.starts_with(FAILURE);
        let expires = if failed { self.failures_expire } else { self.expires }.to_string();
        let tenant = keys::encoded(job.tenant);
        let meta = marked(self.keys.mark(job.tenant), meta);
        let all = [key];
        let put = async |known: &[u8]| -> Result<u64, StoreError> {
            let arguments: [&[u8]; 4] = [&meta, expires.as_bytes(), tenant.as_bytes(), known];
            self.run(&self.put, &all, &arguments).await
        };
        let mut said = put(b"0").await?;
        if said == COMPRESSED {
            // A worker of Celery's stored it with `result_compression`.
            let [key] = &all;
            let before = self.value(key).await?;
            let before = before.and_then(|value| Meta::parse(job.id, &value));
            match before.map(|meta| meta.state) {
                Some(state) if state.is_ready() && !job.tenant.is_empty() => {
                    return Err(StoreError::OtherTenants);
                }
                Some(State::Success) => return Ok(false),
                _ => said = put(b"1").await?,
            }
        }
        match said {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StoreError::OtherTenants),
        }
    }

    async fn get(&self, tenant: &str, tasks: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = ::redis::cmd("MGET");
        let keys = tasks.iter().map(|task| self.key(tenant, &keys::task(task)));
        command.arg(keys.collect::<Vec<_>>());
        let values: Vec<Option<Vec<u8>>> = self.ask(&command).await?;
        Ok(values.into_iter().map(|value| readable(tenant, value?)).collect())
    }

    async fn begin_chord(
        &self,
        group: JobKey<'_>,
        result: Bytes,
        nested: bool,
    ) -> Result<(), StoreError> {
        self.own(group, None).await?;
        // Of others the parts say all there is to know.
        if nested {
            let key = self.key(group.tenant, &keys::group(group.id));
            self.set(&key, &result, self.chords_expire).await
        } else {
            Ok(())
        }
    }

    async fn chord_size(&self, group: JobKey<'_>, size: u64) -> Result<(), StoreError> {
        // A claim of a run before, where a workflow is sent once more under the same ids.
        let claim = self.key(group.tenant, &keys::chord_claim(group.id));
        self.own(group, Some(claim)).await?;
        let key = self.key(group.tenant, &keys::chord_size(group.id));
        self.set(&key, size.to_string().as_bytes(), self.chords_expire).await
    }

    async fn end_part(&self, part: Part<'_>) -> Result<Counted, StoreError> {
        let group = JobKey::new(part.tenant, part.group);
        check_group(group.id)?;
        let mut keys = self.chord(group).to_vec();
        keys.push(self.key(group.tenant, &keys::group(group.id)));
        keys.push(self.owner(group));
        let claim = uuid::Uuid::new_v4().simple().to_string();
        let place = part.index.map_or_else(|| "+inf".to_owned(), |index| index.to_string());
        let (expires, hold) = (self.chords_expire.to_string(), CLAIM_SECONDS.to_string());
        let tenant = keys::encoded(part.tenant);
        let arguments: [&[u8]; 7] = [
            part.task.as_bytes(),
            place.as_bytes(),
            part.encoded,
            expires.as_bytes(),
            hold.as_bytes(),
            claim.as_bytes(),
            tenant.as_bytes(),
        ];
        let said: String = self.run(&self.part, &keys, &arguments).await?;
        match said.as_str() {
            "claimed" => {}
            "busy" => return Ok(Counted::Busy),
            "other" => return Err(StoreError::OtherTenants),
            _ => return Ok(Counted::Waits),
        }
        let mut range = ::redis::cmd("ZRANGE");
        let results = self.key(group.tenant, &keys::chord_results(group.id));
        range.arg(results).arg(0).arg(-1);
        let parts: Vec<Vec<u8>> = self.ask(&range).await?;
        let parts = parts.into_iter().map(Bytes::from).collect();
        let group = self.value(&self.key(group.tenant, &keys::group(group.id))).await?;
        Ok(Counted::Complete(Complete { parts, group, claim }))
    }

    async fn end_chord(&self, group: JobKey<'_>, claim: &str) -> Result<(), StoreError> {
        let mut keys = self.chord(group).to_vec();
        keys.push(self.owner(group));
        let over = OVER_SECONDS.to_string();
        let arguments: [&[u8]; 2] = [claim.as_bytes(), over.as_bytes()];
        let _: u64 = self.run(&self.end, &keys, &arguments).await?;
        Ok(())
    }

    async fn revoke(&self, tenant: Option<&str>, tasks: &[String]) -> Result<(), StoreError> {
        for task in tasks {
            // What holds for every tenant stands under the keys of none.
            let key = self.key(tenant.unwrap_or_default(), &keys::revoked(tenant, task));
            self.set(&key, b"1", self.expires).await?;
        }
        Ok(())
    }

    async fn is_revoked(&self, job: JobKey<'_>) -> Result<bool, StoreError> {
        let mut command = ::redis::cmd("EXISTS");
        command.arg(self.key("", &keys::revoked(None, job.id)));
        command.arg(self.key(job.tenant, &keys::revoked(Some(job.tenant), job.id)));
        let found: u64 = self.ask(&command).await?;
        Ok(found > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_by_its_tenant_alone_and_then_as_celery_wrote_it() {
        let meta = Bytes::from_static(br#"{"status": "SUCCESS", "result": "\",\""}"#);
        for tenant in ["", "acme", "a\"b,c", "ä:"] {
            let value = marked(Some(tenant), meta.clone());
            assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok());
            assert_eq!(readable(tenant, value.to_vec()).unwrap(), meta);
            for other in ["", "acme", "mallory", "a"] {
                assert_eq!(readable(other, value.to_vec()).is_some(), other == tenant);
            }
            // Celery's workers mark nothing.
            assert_eq!(readable(tenant, meta.to_vec()).unwrap(), meta);
        }
        assert_eq!(marked(None, meta.clone()), meta);
    }
}
