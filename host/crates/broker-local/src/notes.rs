//! Notes about jobs that have no result yet: their progress and their revocation, by tenant and id.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{OptionalExtension, params};

use super::{LocalBroker, sql};
use lovage_core::{
    broker::BrokerError,
    cancellation::Progress,
    job::{JobKey, OwnedJobKey},
};

/// How long what other processes say may take to be seen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// True if any job is revoked at all: most often none is, and then no job asks the file.
#[derive(Debug, Default)]
pub struct Revocations {
    any: AtomicBool,
    looked: Mutex<Option<Instant>>,
}

impl Revocations {
    /// Whether to look whether there are any.
    fn is_due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }
}

impl LocalBroker {
    pub(super) async fn note_progress(
        &self,
        job: JobKey<'_>,
        progress: &Progress,
    ) -> Result<(), BrokerError> {
        let (OwnedJobKey { tenant, id }, progress) = (job.to_owned(), progress.clone());
        self.call(1, move |store| {
            store.note(
                sql::NOTE_PROGRESS,
                params![id, tenant, store.now, progress.percent, progress.message],
            )
        })
        .await
    }

    pub(super) async fn noted_progress(
        &self,
        job: JobKey<'_>,
    ) -> Result<Option<Progress>, BrokerError> {
        let OwnedJobKey { tenant, id } = job.to_owned();
        self.look(move |connection| {
            let read = |row: &rusqlite::Row<'_>| {
                let percent: Option<u8> = row.get(0)?;
                let message: Option<String> = row.get(1)?;
                Ok(percent
                    .map(|percent| Progress { percent, message: message.unwrap_or_default() }))
            };
            let mut statement = connection.prepare_cached(sql::PROGRESS)?;
            Ok(statement.query_row([id, tenant], read).optional()?.flatten())
        })
        .await
    }

    /// `tenant` is `None` where the id is revoked for every tenant.
    pub(super) async fn note_revoked(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<(), BrokerError> {
        let (tenant, id) = (tenant.map(str::to_owned), id.to_owned());
        self.call(1, move |store| store.note(sql::NOTE_REVOKED, params![id, tenant, store.now]))
            .await?;
        self.revocations.any.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn noted_revoked(&self, job: JobKey<'_>) -> Result<bool, BrokerError> {
        if self.revocations.is_due() {
            let any = self
                .look(|connection| {
                    let mut statement = connection.prepare_cached(sql::ANY_REVOKED)?;
                    statement.exists([])
                })
                .await?;
            self.revocations.any.store(any, Ordering::Relaxed);
        }
        if !self.revocations.any.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let OwnedJobKey { tenant, id } = job.to_owned();
        self.look(move |connection| {
            let mut statement = connection.prepare_cached(sql::IS_REVOKED)?;
            statement.exists([id, tenant])
        })
        .await
    }

    pub(super) async fn noted_tenants(&self, id: &str) -> Result<Vec<String>, BrokerError> {
        let id = id.to_owned();
        self.look(move |connection| {
            let mut statement = connection.prepare_cached(sql::TENANTS_OF)?;
            let tenants = statement.query_map([id], |row| row.get(0))?;
            tenants.collect()
        })
        .await
    }
}
