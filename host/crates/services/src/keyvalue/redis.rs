//! Buckets in Redis, or in what speaks its protocol and runs its scripts.
//!
//! A bucket is three keys that share a hash tag, so that a cluster keeps them together. Whatever
//! has to be seen and changed in one step (quotas, numbers, swaps) is a script, which Redis runs
//! as a whole. Nothing is connected before the first operation, and after an outage the next
//! operation connects again.

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError, Script};
use async_trait::async_trait;

use super::{Namespace, PAGE_KEYS, Page, Quota, Quotas, Store, StoreError, Swap, Version};
use crate::redis_client::{Again, RedisClient, hint};
use lovage_core::dependency::Probe;

/// Buckets in Redis.
#[derive(Debug)]
pub struct RedisStore {
    redis: RedisClient,
    prefix: String,
    quotas: Quotas,
    scripts: Scripts,
}

#[derive(Debug)]
struct Scripts {
    get: Script,
    set: Script,
    delete: Script,
    increment: Script,
    swap: Script,
}

/// What a script says: a word, and what belongs to it.
type Said = Vec<Option<Vec<u8>>>;

impl RedisStore {
    /// Buckets in the Redis at `url`, under keys that begin with `prefix`. `Err` says what is
    /// wrong with the URL, without it: there may be a password in it.
    pub fn new(url: &str, prefix: &str, quotas: Quotas, timeout: Duration) -> Result<Self, String> {
        let writes =
            |script: &str| Script::new(&(include_str!("redis/put.lua").to_owned() + script));
        Ok(Self {
            redis: RedisClient::new(url, timeout)
                .map_err(|why| format!("keyvalue.url is {why}"))?,
            prefix: prefix.to_owned(),
            quotas,
            scripts: Scripts {
                get: Script::new(include_str!("redis/get.lua")),
                set: writes(include_str!("redis/set.lua")),
                delete: Script::new(include_str!("redis/delete.lua")),
                increment: writes(include_str!("redis/increment.lua")),
                swap: writes(include_str!("redis/swap.lua")),
            },
        })
    }

    fn key(&self, bucket: &Namespace, part: &str) -> String {
        format!("{}{{{}}}:{part}", self.prefix, bucket.as_str())
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.redis.send(Again::Harmless, command).await.map_err(|error| self.unavailable(&error))
    }

    /// Runs a script over a bucket.
    async fn run(
        &self,
        again: Again,
        script: &Script,
        bucket: &Namespace,
        arguments: &[&[u8]],
    ) -> Result<Said, StoreError> {
        let keys = ["v", "k", "m"].map(|part| self.key(bucket, part));
        let answer = self.redis.run(again, script, &keys, arguments).await;
        answer.map_err(|error| self.unavailable(&error))
    }

    /// Runs a script that writes, and gives what it says where that was no refusal.
    async fn write(
        &self,
        again: Again,
        script: &Script,
        bucket: &Namespace,
        arguments: &[&[u8]],
    ) -> Result<Wrote, StoreError> {
        let (keys, bytes) = (self.quotas.max_keys.to_string(), self.quotas.max_bytes.to_string());
        let mut all: Vec<&[u8]> = vec![keys.as_bytes(), bytes.as_bytes()];
        all.extend(arguments);
        let said = self.run(again, script, bucket, &all).await?;
        let mut said = said.into_iter().map(Option::unwrap_or_default);
        let (word, rest) = (said.next().unwrap_or_default(), said.next().unwrap_or_default());
        let quota = |quota, allowed| {
            let asked = digits(&rest).unwrap_or(allowed);
            Err(StoreError::Quota { quota, asked, allowed })
        };
        match &*word {
            b"ok" => Ok(Wrote::Done(rest)),
            b"stale" => Ok(Wrote::Stale(version(&rest))),
            b"keys" => quota(Quota::Keys, self.quotas.max_keys),
            b"bytes" => quota(Quota::Bytes, self.quotas.max_bytes),
            b"number" => Err(StoreError::NotANumber),
            b"overflow" => Err(StoreError::Overflow),
            _ => Err(self.not_understood()),
        }
    }

    fn unavailable(&self, error: &RedisError) -> StoreError {
        let hint = hint(error, "keyvalue.url");
        StoreError::Unavailable(format!(
            "the key-value store at {}: {error}{hint}",
            self.redis.place()
        ))
    }

    fn not_understood(&self) -> StoreError {
        let place = self.redis.place();
        StoreError::Unavailable(format!("the key-value store at {place} answers in another way"))
    }
}

/// What a script that writes came to.
enum Wrote {
    Done(Vec<u8>),
    Stale(Option<Version>),
}

/// 16 digits, which stand before each value.
fn stamp(version: Version) -> String {
    format!("{:016x}", version.0)
}

fn version(stamp: &[u8]) -> Option<Version> {
    let text = std::str::from_utf8(stamp).ok()?;
    u64::from_str_radix(text, 16).ok().map(Version)
}

fn digits(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A value without its version.
fn split(mut stored: Vec<u8>) -> Option<(Version, Vec<u8>)> {
    let value = stored.split_off_checked(16)?;
    Some((version(&stored)?, value))
}

trait SplitOffChecked: Sized {
    fn split_off_checked(&mut self, at: usize) -> Option<Self>;
}

impl SplitOffChecked for Vec<u8> {
    fn split_off_checked(&mut self, at: usize) -> Option<Self> {
        (at <= self.len()).then(|| self.split_off(at))
    }
}

#[async_trait]
impl Probe for RedisStore {
    async fn probe(&self) -> Result<(), String> {
        let mut command = ::redis::cmd("SET");
        command.arg(format!("{}lovage-probe", self.prefix)).arg(1).arg("EX").arg(60);
        let answer: Result<(), _> = self.ask(&command).await;
        answer.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Store for RedisStore {
    /// Redis may come later than a worker does.
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(
        &self,
        bucket: &Namespace,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let allowed = self.quotas.answer_bytes();
        let most = allowed.to_string();
        let mut arguments = vec![most.as_bytes()];
        arguments.extend(keys.iter().map(String::as_bytes));
        let said = self.run(Again::Harmless, &self.scripts.get, bucket, &arguments).await?;
        let mut said = said.into_iter();
        match said.next().flatten().as_deref() {
            Some(b"ok") => said
                .map(|stored| match stored {
                    None => Ok(None),
                    Some(stored) => match split(stored) {
                        Some((_, value)) => Ok(Some(value)),
                        None => Err(self.not_understood()),
                    },
                })
                .collect(),
            Some(b"bytes") => {
                let asked = said.next().flatten().and_then(|text| digits(&text));
                let asked = asked.unwrap_or(allowed);
                Err(StoreError::Quota { quota: Quota::AnswerBytes, asked, allowed })
            }
            _ => Err(self.not_understood()),
        }
    }

    async fn read(
        &self,
        bucket: &Namespace,
        key: String,
    ) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
        let mut command = ::redis::cmd("HGET");
        command.arg(self.key(bucket, "v")).arg(key);
        let stored: Option<Vec<u8>> = self.ask(&command).await?;
        match stored.map(split) {
            None => Ok(None),
            Some(Some(found)) => Ok(Some(found)),
            Some(None) => Err(self.not_understood()),
        }
    }

    async fn set(
        &self,
        bucket: &Namespace,
        entries: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        for (_, value) in &entries {
            self.quotas.allow_value(value)?;
        }
        let stamps: Vec<_> = entries.iter().map(|_| stamp(Version::new())).collect();
        let mut arguments: Vec<&[u8]> = Vec::with_capacity(entries.len() * 3);
        for ((key, value), stamp) in entries.iter().zip(&stamps) {
            arguments.extend([key.as_bytes(), stamp.as_bytes(), value]);
        }
        self.write(Again::Harmless, &self.scripts.set, bucket, &arguments).await.map(drop)
    }

    async fn delete(&self, bucket: &Namespace, keys: Vec<String>) -> Result<(), StoreError> {
        let arguments: Vec<_> = keys.iter().map(String::as_bytes).collect();
        self.run(Again::Harmless, &self.scripts.delete, bucket, &arguments).await.map(drop)
    }

    async fn exists(&self, bucket: &Namespace, key: String) -> Result<bool, StoreError> {
        let mut command = ::redis::cmd("HEXISTS");
        command.arg(self.key(bucket, "v")).arg(key);
        self.ask(&command).await
    }

    async fn list(&self, bucket: &Namespace, after: Option<u64>) -> Result<Page, StoreError> {
        // Without the bound, and one more than there is room for: that one tells of a next page.
        let after = format!("({}", after.unwrap_or(0));
        let mut command = ::redis::cmd("ZRANGEBYSCORE");
        command.arg(self.key(bucket, "k")).arg(after).arg("+inf").arg("WITHSCORES");
        command.arg("LIMIT").arg(0).arg(PAGE_KEYS + 1);
        let found: Vec<(Vec<u8>, f64)> = self.ask(&command).await?;
        let more = found.len() > PAGE_KEYS;
        let (mut keys, mut last) = (Vec::new(), 0.0);
        for (key, place) in found.into_iter().take(PAGE_KEYS) {
            keys.push(String::from_utf8_lossy(&key).into_owned());
            last = place;
        }
        #[allow(clippy::cast_sign_loss, reason = "places are counted from 1")]
        let next = more.then_some(last as u64);
        Ok(Page { keys, next })
    }

    async fn increment(
        &self,
        bucket: &Namespace,
        key: String,
        delta: i64,
    ) -> Result<i64, StoreError> {
        let (stamp, delta) = (stamp(Version::new()), delta.to_string());
        let arguments = [key.as_bytes(), stamp.as_bytes(), delta.as_bytes()];
        match self.write(Again::Never, &self.scripts.increment, bucket, &arguments).await? {
            Wrote::Done(sum) => super::number(&sum).map_err(|_| self.not_understood()),
            Wrote::Stale(_) => Err(self.not_understood()),
        }
    }

    async fn swap(
        &self,
        bucket: &Namespace,
        key: String,
        expected: Option<Version>,
        value: Vec<u8>,
    ) -> Result<Swap, StoreError> {
        self.quotas.allow_value(&value)?;
        let (new, expected) = (stamp(Version::new()), expected.map(stamp).unwrap_or_default());
        let arguments = [key.as_bytes(), new.as_bytes(), &*value, expected.as_bytes()];
        Ok(match self.write(Again::Never, &self.scripts.swap, bucket, &arguments).await? {
            Wrote::Done(_) => Swap::Done,
            Wrote::Stale(has) => Swap::Stale(has),
        })
    }
}
