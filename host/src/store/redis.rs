//! Results in Redis, as Celery's Redis backend keeps them.

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError, Script};
use async_trait::async_trait;
use bytes::Bytes;

use super::{Complete, Counted, Part, ResultStore, StoreError, revoked};
use crate::{
    celery::keys,
    redis_client::{Again, RedisClient, hint},
};

/// How long to wait for a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For how long a chord is claimed by whoever goes on with it, in seconds: what that takes at the
/// most. When its worker dies over it, the last part's message comes again after its lease, and
/// waits for the claim to end.
const CLAIM_SECONDS: u64 = 10;
/// For how long it is remembered that a chord is over, in seconds.
const OVER_SECONDS: u64 = 300;

/// Results in Redis.
#[derive(Debug)]
pub struct RedisResults {
    redis: RedisClient,
    /// Stands before all keys: `global_keyprefix` of Celery.
    prefix: String,
    /// Seconds to keep a result; for ever when 0.
    expires: u64,
    put: Script,
    part: Script,
    end: Script,
}

impl RedisResults {
    /// Results in the Redis at `url` (`redis://`, `rediss://`), kept for `expires`, for ever when
    /// that is zero, under keys that begin with `prefix`. `Err` says what is wrong with the URL,
    /// without it: there may be a password in it.
    pub fn new(url: &str, prefix: &str, expires: Duration) -> Result<Self, String> {
        Ok(Self {
            redis: RedisClient::new(url, TIMEOUT).map_err(|why| format!("it is {why}"))?,
            prefix: prefix.to_owned(),
            expires: expires.as_secs(),
            put: Script::new(include_str!("redis/put.lua")),
            part: Script::new(include_str!("redis/part.lua")),
            end: Script::new(include_str!("redis/end.lua")),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Sends a command. All of them come to the same, once or twice.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.redis.send(Again::Harmless, command).await.map_err(|error| self.unavailable(&error))
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let answer = self.redis.run(Again::Harmless, script, keys, arguments).await;
        answer.map_err(|error| self.unavailable(&error))
    }

    /// `SET`, for as long as results are kept.
    async fn set(&self, key: &str, value: &[u8], expires: u64) -> Result<(), StoreError> {
        let mut command = ::redis::cmd("SET");
        command.arg(self.key(key)).arg(value);
        if expires > 0 {
            command.arg("EX").arg(expires);
        }
        self.ask(&command).await
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let value: Option<Vec<u8>> = self.ask(::redis::cmd("GET").arg(self.key(key))).await?;
        Ok(value.map(Bytes::from))
    }

    fn unavailable(&self, error: &RedisError) -> StoreError {
        let hint = hint(error, "celery.result_backend");
        StoreError(format!("the result store at {}: {error}{hint}", self.redis.place()))
    }

    /// The keys of a chord: results, size, added, counted, claim.
    fn chord(&self, group: &str) -> [String; 5] {
        [
            keys::chord_results(group),
            keys::chord_size(group),
            keys::chord_added(group),
            keys::chord_counted(group),
            keys::chord_claim(group),
        ]
        .map(|key| self.key(&key))
    }
}

#[async_trait]
impl ResultStore for RedisResults {
    async fn put(&self, task: &str, meta: Bytes) -> Result<bool, StoreError> {
        let key = self.key(&keys::task(task));
        let expires = self.expires.to_string();
        self.run(&self.put, &[key], &[&meta, expires.as_bytes()]).await
    }

    async fn get(&self, tasks: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = ::redis::cmd("MGET");
        command.arg(tasks.iter().map(|task| self.key(&keys::task(task))).collect::<Vec<_>>());
        let values: Vec<Option<Vec<u8>>> = self.ask(&command).await?;
        Ok(values.into_iter().map(|value| value.map(Bytes::from)).collect())
    }

    async fn begin_chord(
        &self,
        group: &str,
        result: Bytes,
        nested: bool,
    ) -> Result<(), StoreError> {
        // Of others the parts say all there is to know.
        if nested { self.set(&keys::group(group), &result, self.expires).await } else { Ok(()) }
    }

    async fn chord_size(&self, group: &str, size: u64) -> Result<(), StoreError> {
        let claim = self.key(&keys::chord_claim(group));
        // Of a run before, where a workflow is sent once more under the same ids.
        let _: u64 = self.ask(::redis::cmd("DEL").arg(claim)).await?;
        self.set(&keys::chord_size(group), size.to_string().as_bytes(), self.expires).await
    }

    async fn end_part(&self, part: Part<'_>) -> Result<Counted, StoreError> {
        let group = part.group;
        let mut keys = self.chord(group).to_vec();
        keys.push(self.key(&keys::group(group)));
        let claim = uuid::Uuid::new_v4().simple().to_string();
        let place = part.index.map_or_else(|| "+inf".to_owned(), |index| index.to_string());
        let (expires, hold) = (self.expires.to_string(), CLAIM_SECONDS.to_string());
        let arguments: [&[u8]; 6] = [
            part.task.as_bytes(),
            place.as_bytes(),
            part.encoded,
            expires.as_bytes(),
            hold.as_bytes(),
            claim.as_bytes(),
        ];
        let said: String = self.run(&self.part, &keys, &arguments).await?;
        match said.as_str() {
            "claimed" => {}
            "busy" => return Ok(Counted::Busy),
            _ => return Ok(Counted::Waits),
        }
        let mut range = ::redis::cmd("ZRANGE");
        range.arg(self.key(&keys::chord_results(group))).arg(0).arg(-1);
        let parts: Vec<Vec<u8>> = self.ask(&range).await?;
        let parts = parts.into_iter().map(Bytes::from).collect();
        let group = self.value(&keys::group(group)).await?;
        Ok(Counted::Complete(Complete { parts, group, claim }))
    }

    async fn end_chord(&self, group: &str, claim: &str) -> Result<(), StoreError> {
        let keys = self.chord(group);
        let over = OVER_SECONDS.to_string();
        let arguments: [&[u8]; 2] = [claim.as_bytes(), over.as_bytes()];
        let _: u64 = self.run(&self.end, &keys, &arguments).await?;
        Ok(())
    }

    async fn revoke(&self, tasks: &[String]) -> Result<(), StoreError> {
        for task in tasks {
            self.set(&revoked(task), b"1", self.expires).await?;
        }
        Ok(())
    }

    async fn is_revoked(&self, task: &str) -> Result<bool, StoreError> {
        self.ask(::redis::cmd("EXISTS").arg(self.key(&revoked(task)))).await
    }
}
