//! `[celery]`: what holds for queues that Celery's clients send to, and `[tasks.NAME.celery]`.

use std::{collections::BTreeMap, fmt, num::NonZeroU64};

use serde::{Deserialize, Serialize};

use super::{Config, DynamoDbUrl, RedisUrl, nonzero64, password::without_password};
use lovage_celery::{Mapping, RichTypes, exception::check_vouched, keys::Prefix, names};

/// What becomes of a message for a task that is not here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownTasks {
    /// It is left for other workers of its queue: put back, and not looked at again for some
    /// seconds.
    #[default]
    Leave,
    /// It goes to the dead-letter queue, with the reason, and its client is told that it failed.
    DeadLetter,
}

/// `[celery]`
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CeleryConfig {
    /// Where results are stored for Celery's clients, as their `result_backend` says it:
    /// `redis://…`, `rediss://…` or `dynamodb://…`. Nowhere when absent; then there are no chords. A
    /// password belongs into the environment: `LOVAGE__CELERY__RESULT_BACKEND`.
    pub result_backend: Option<String>,
    /// How long results are kept, in milliseconds; without end when 0. Celery's own default is a
    /// day.
    pub result_expires_ms: u64,
    /// How long failures are kept in Redis (`result_failure_expires`), in milliseconds; as long as
    /// other results when absent.
    pub result_failure_expires_ms: Option<u64>,
    /// How long the parts of chords are kept in Redis (`result_chord_expires`), in milliseconds; as
    /// long as results when absent.
    pub result_chord_expires_ms: Option<u64>,
    /// Exception classes of the clients' own that a guest's failure may name by its kind, as
    /// `module.Name` or `module:Outer.Name`. Clients call what is named here.
    pub exceptions: Vec<String>,
    /// True if name, arguments, worker and retries are stored with results (`result_extended`).
    pub result_extended: bool,
    /// Put before every key of the store (`global_keyprefix`); `{tenant}:` in it stands for the
    /// job's tenant.
    pub result_key_prefix: String,
    /// The queue for tasks that follow and that nobody names a queue for (`task_default_queue`), by
    /// Celery's name for it; the one that the task before came by when absent.
    pub default_queue: Option<String>,
    /// Which other queues tasks that follow may be sent to, by Celery's names; `*` at the end matches
    /// any rest. Whoever sends workflows makes the worker send to these queues.
    pub queues: Vec<String>,
    /// Put before Celery's names of queues to have the broker's (`queue_name_prefix`).
    pub queue_prefix: String,
    /// The queue for tasks that follow, by Celery's name for the task (`task_routes`).
    pub routes: BTreeMap<String, String>,
    /// Our tasks by Celery's names for them, where the last part of such a name is not the task's
    /// own name.
    pub tasks: BTreeMap<String, String>,
    /// `dead_letter` or `leave`: what becomes of messages for tasks that are not here.
    pub unknown_tasks: UnknownTasks,
    /// The most bytes that a message's body may have when it is unpacked.
    pub max_body_bytes: NonZeroU64,
    /// True if tasks that follow have the priority of the one before, where they name none
    /// (`task_inherit_parent_priority`).
    pub inherit_priority: bool,
}

impl Default for CeleryConfig {
    fn default() -> Self {
        Self {
            result_backend: None,
            result_expires_ms: 24 * 60 * 60 * 1000,
            result_failure_expires_ms: None,
            result_chord_expires_ms: None,
            exceptions: Vec::new(),
            result_extended: false,
            result_key_prefix: String::new(),
            default_queue: None,
            queues: Vec::new(),
            queue_prefix: String::new(),
            routes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            unknown_tasks: UnknownTasks::default(),
            max_body_bytes: nonzero64(8 << 20),
            inherit_priority: false,
        }
    }
}

/// The URL may hold a password.
impl fmt::Debug for CeleryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeleryConfig")
            .field("result_backend", &self.result_backend.as_deref().map(without_password))
            .field("default_queue", &self.default_queue)
            .finish_non_exhaustive()
    }
}

/// `[defaults.celery]` and `[tasks.NAME.celery]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskCeleryConfig {
    /// How a call's arguments become the payload: `auto`, `value`, `args`, `object` or `call`.
    pub payload: Option<Mapping>,
    /// `plain` or `keep`: what becomes of types that JSON lacks.
    pub rich_types: Option<RichTypes>,
}

/// The URLs that results can be stored at.
const SCHEMES: [&str; 3] = ["redis", "rediss", "dynamodb"];

impl Config {
    pub(super) fn check_celery(&self) -> Result<(), String> {
        let celery = &self.celery;
        if let Some(url) = &celery.result_backend {
            let scheme = url.split_once("://").map(|(scheme, _)| scheme);
            if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) {
                return Err("celery.result_backend is no URL of a store that results can be kept \
                            in; use redis://, rediss:// or dynamodb://, as on Celery's clients"
                    .to_owned());
            }
        }
        let routes = celery.routes.iter().map(|(task, queue)| ("routes", task, queue));
        let tasks = celery.tasks.iter().map(|(name, task)| ("tasks", name, task));
        if let Some((field, name, _)) =
            routes.chain(tasks).find(|(_, name, to)| name.is_empty() || to.is_empty())
        {
            return Err(format!("celery.{field}.\"{name}\" has an empty name; say what is meant"));
        }
        if celery.default_queue.as_deref() == Some("") {
            return Err(
                "celery.default_queue is empty; Celery's own default is `celery`".to_owned()
            );
        }
        for class in &celery.exceptions {
            check_vouched(class).map_err(|why| {
                format!("celery.exceptions: `{}`: {why}", lovage_core::text::one_line(class, 100))
            })?;
        }
        self.check_result_backend()
    }

    fn check_result_backend(&self) -> Result<(), String> {
        Prefix::parse(&self.celery.result_key_prefix)
            .map_err(|why| format!("celery.result_key_prefix: {why}"))?;
        let wrong = |why: String| format!("celery.result_backend: {why}");
        match &self.celery.result_backend {
            None => Ok(()),
            Some(url) if url.starts_with("dynamodb://") => {
                DynamoDbUrl::parse(url).map(drop).map_err(wrong)
            }
            Some(url) => {
                RedisUrl::parse(url).map(drop).map_err(|why| wrong(format!("it is {why}")))
            }
        }
    }

    /// Our name of a task that Celery calls by that name.
    pub fn celery_task<'a>(&'a self, name: &'a str) -> &'a str {
        names::task(name, &self.celery.tasks)
    }

    /// How a task takes a call's arguments: its own settings, else those for all.
    pub fn celery_arguments(&self, task: &str) -> (Mapping, RichTypes) {
        let own = self.tasks.get(task).map(|it| &it.celery);
        let all = &self.defaults.celery;
        (
            own.and_then(|it| it.payload).or(all.payload).unwrap_or_default(),
            own.and_then(|it| it.rich_types).or(all.rich_types).unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config = Config::parse(text, "test").map_err(|error| error.to_string())?;
        config.validate("test").map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, words) in [
            ("result_backend = 'rpc://'", "celery.result_backend is no URL"),
            ("result_backend = 'http://u:hunter2@h'", "use redis://, rediss:// or dynamodb://"),
            ("default_queue = ''", "celery.default_queue is empty"),
            ("[celery.routes]\n'tasks.a' = ''", "celery.routes.\"tasks.a\" has an empty name"),
            ("[celery.tasks]\n'' = 'a'", "celery.tasks.\"\" has an empty name"),
            ("exceptions = ['os.system']", "celery.exceptions: `os.system`"),
            ("unknown_tasks = 'drop'", "unknown variant `drop`"),
        ] {
            let error = parse(&format!("[celery]\n{text}\n")).unwrap_err();
            assert!(error.contains(words) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn the_password_of_the_store_is_not_shown() {
        let config = parse("[celery]\nresult_backend = 'redis://:hunter2@h:1/0'\n").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let shown = toml::to_string(&config.without_passwords()).unwrap();
        assert!(shown.contains("redis://:***@h:1/0"), "{shown}");
    }

    #[test]
    fn a_task_takes_arguments_by_its_own_settings_then_by_those_for_all() {
        let config = parse(
            "[celery.tasks]\n'proj.work' = 'a'\n[defaults.celery]\nrich_types = 'keep'\n\
             [tasks.a.celery]\npayload = 'args'\n",
        )
        .unwrap();
        assert_eq!(config.celery_task("proj.work"), "a");
        assert_eq!(config.celery_task("tasks.process_data"), "process_data");
        assert_eq!(config.celery_arguments("a"), (Mapping::Args, RichTypes::Keep));
        assert_eq!(config.celery_arguments("b"), (Mapping::Auto, RichTypes::Keep));
    }
}
