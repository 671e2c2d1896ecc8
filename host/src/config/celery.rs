//! What has to do with Celery's clients and workers.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Config, secrets::without_password};
use crate::celery::{Mapping, RichTypes};

/// Celery's own: a day.
const RESULT_EXPIRES_MS: u64 = 24 * 60 * 60 * 1000;

/// What becomes of a task of Celery's that no component here serves, and of a message on its queue
/// that is not one of Celery's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownTasks {
    /// It is left for other workers of the queue: put back, and not looked at again for some seconds.
    #[default]
    Leave,
    /// It goes to the dead letters, and its client is told that it failed.
    DeadLetter,
}

/// `[celery]`: for queues whose `format` is `celery`.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CeleryConfig {
    /// Where states and results are kept, for `AsyncResult` to find: the `result_backend` of the
    /// clients, as a URL of `redis://`, `rediss://` or `dynamodb://` in Celery's forms. Chords and
    /// revocation take one.
    pub result_backend: Option<String>,
    /// For how long Redis keeps results, in milliseconds; for ever when 0. In DynamoDB the URL's
    /// `ttl_seconds` says it.
    pub result_expires_ms: u64,
    /// What stands before all keys in Redis: `global_keyprefix` of the clients, with its `_`.
    pub key_prefix: String,
    /// Whether results say name, arguments, worker and queue of their task (`result_extended`).
    pub result_extended: bool,
    /// Which of our tasks those of Celery are, by Celery's names. A name that is not here is that of
    /// the task that its last part between dots names: `tasks.process_data` is `process_data`.
    pub tasks: BTreeMap<String, String>,
    /// `leave` or `dead_letter`: what becomes of tasks that no component serves.
    pub unknown_tasks: UnknownTasks,
    /// The queue for the next tasks of a workflow that name none, by Celery's name for it; the one
    /// that the task before came by when absent.
    pub default_queue: Option<String>,
    /// The same for single tasks, by Celery's name of the task: `task_routes` of the clients.
    pub routes: BTreeMap<String, String>,
    /// Which other queues a workflow may send its tasks to, by Celery's names; `*` at the end
    /// matches any rest. Whoever sends workflows makes the worker send to these queues.
    pub queues: Vec<String>,
    /// What stands before Celery's name of a queue at the broker: `queue_name_prefix` of the clients.
    pub queue_prefix: String,
    /// Whether tasks that follow have the priority of the one before, where they name none
    /// (`task_inherit_parent_priority`).
    pub inherit_priority: bool,
}

impl Default for CeleryConfig {
    fn default() -> Self {
        Self {
            result_backend: None,
            result_expires_ms: RESULT_EXPIRES_MS,
            key_prefix: String::new(),
            result_extended: false,
            tasks: BTreeMap::new(),
            unknown_tasks: UnknownTasks::default(),
            default_queue: None,
            routes: BTreeMap::new(),
            queues: Vec::new(),
            queue_prefix: String::new(),
            inherit_priority: false,
        }
    }
}

impl fmt::Debug for CeleryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeleryConfig")
            .field("result_backend", &self.result_backend.as_deref().map(without_password))
            .field("default_queue", &self.default_queue)
            .finish_non_exhaustive()
    }
}

impl Config {
    pub(super) fn check_celery(&self) -> Result<(), String> {
        crate::store::open(&self.celery).map(drop)
    }

    /// How a task takes a call's arguments.
    pub fn celery_arguments(&self, task: &str) -> (Mapping, RichTypes) {
        let own = self.tasks.get(task).map(|it| it.celery).unwrap_or_default();
        (own.payload, own.rich_types)
    }
}

/// `[tasks.NAME.celery]`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CeleryTaskConfig {
    /// How arguments become the payload: `auto`, `value`, `args`, `object` or `call`.
    pub payload: Mapping,
    /// Whether Python's decimals, dates and the like are made plain JSON (`plain`) or stay as Celery
    /// writes them (`keep`).
    pub rich_types: RichTypes,
}
