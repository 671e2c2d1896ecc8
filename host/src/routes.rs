//! Which queues belong together: where a queue's jobs come from, where their results and dead
//! letters go. Resolved once at the start, so that a missing queue is told before a job runs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Mutex;

use crate::{
    broker::{Broker, BrokerError, Fault, Queue, Send},
    config::{BrokerKind, Config, DISCARD, QueueConfig, ResultFormat},
    message::{Defaults, Trust},
};

/// How many queues named by `reply_to` are remembered. Senders choose those names, so the number
/// is bounded.
const REMEMBERED: usize = 1000;

/// A queue that jobs are taken from, with all that its configuration says.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in the configuration, which logs and dead letters show.
    pub name: Arc<str>,
    /// The queue.
    pub queue: Queue,
    /// What it supplies where a message is silent.
    pub defaults: Defaults,
    /// Where results go.
    pub results: Option<Queue>,
    /// How they look.
    pub result_format: ResultFormat,
    /// Where dead letters go; `None` where they are discarded.
    pub dead_letters: Option<Queue>,
    /// Which queues `reply_to` may name.
    pub reply_to: Vec<String>,
    /// For how long a message is leased.
    pub visibility: Duration,
}

impl Source {
    /// Whether a message may name a queue for its result.
    pub fn allows_reply(&self, reply_to: &str) -> bool {
        self.reply_to.iter().any(|pattern| matches_pattern(pattern, reply_to))
    }
}

/// Whether a name is a pattern's; `*` at the pattern's end matches any rest.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Finds queues, once each.
#[derive(Debug)]
pub struct Routes {
    broker: Arc<dyn Broker>,
    config: Arc<Config>,
    opened: Mutex<HashMap<String, Queue>>,
    celery_tasks: Arc<BTreeMap<String, String>>,
}

impl Routes {
    /// Routes as a configuration says them.
    pub fn new(broker: Arc<dyn Broker>, config: Arc<Config>) -> Self {
        let celery_tasks = Arc::new(config.celery.tasks.clone());
        Self { broker, config, opened: Mutex::default(), celery_tasks }
    }

    /// A queue by its name in the configuration, or by its address.
    pub async fn queue(&self, name: &str) -> Result<Queue, BrokerError> {
        if let Some(queue) = self.opened.lock().await.get(name) {
            return Ok(queue.clone());
        }
        // Not under the lock: a broker that does not answer must not hold up other queues.
        let queue = self.broker.open(self.config.address(name)).await?;
        self.know(name, queue.clone()).await;
        Ok(queue)
    }

    /// Remembers a queue that was found in another way.
    pub async fn know(&self, name: &str, queue: Queue) {
        let mut opened = self.opened.lock().await;
        if opened.len() >= REMEMBERED {
            opened.clear();
        }
        opened.insert(name.to_owned(), queue);
    }

    /// Sends a message by itself, to learn what its queue has against it.
    pub async fn send(&self, send: &Send) -> Result<(), BrokerError> {
        let queue = self.broker.open(&send.to).await?;
        let answers = self.broker.send(&queue, std::slice::from_ref(&send.message)).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Looks for the queue anew when it is asked for the next time.
    pub async fn forget(&self, name: &str) {
        self.opened.lock().await.remove(name);
    }

    /// A queue to take jobs from, and the queues that belong to it.
    pub async fn source(&self, name: &str) -> Result<Source, BrokerError> {
        let settings = self.config.queue(name).ok_or_else(|| {
            BrokerError::new(
                Fault::NotFound,
                format!("queue `{name}` is not in the configuration; add [queues.{name}]"),
            )
        })?;
        let queue = self.queue(name).await?;
        self.source_of(name, queue, &settings).await
    }

    /// The queues that belong to one that is already open.
    pub async fn source_of(
        &self,
        name: &str,
        queue: Queue,
        settings: &QueueConfig,
    ) -> Result<Source, BrokerError> {
        let results = match &settings.results {
            Some(results) => Some(self.queue(results).await?),
            None => None,
        };
        let dead_letters = match settings.dead_letters.as_deref() {
            Some(DISCARD) => None,
            Some(letters) => Some(self.queue(letters).await?),
            None => Some(self.default_dead_letters(name, &queue).await?),
        };
        let visibility = settings
            .visibility_timeout_ms
            .map_or(queue.visibility_timeout, |ms| Duration::from_millis(ms.get()))
            .max(Duration::from_secs(1));
        Ok(Source {
            name: name.into(),
            defaults: Defaults {
                format: settings.format,
                task: settings.default_task.clone(),
                tenant: settings.tenant.clone(),
                trust: Trust {
                    from: settings.tenant_from.clone(),
                    required: settings.tenant_required,
                },
                content_type: settings.content_type.clone(),
                fifo: queue.fifo,
                celery_tasks: Arc::clone(&self.celery_tasks),
                celery_body_bytes: self.celery_body_bytes(),
            },
            // One name for one queue in logs, metrics and dead letters: that of the configuration.
            queue: Queue { name: name.into(), ..queue },
            results,
            result_format: settings.result_format,
            dead_letters,
            reply_to: settings.reply_to.clone(),
            visibility,
        })
    }

    fn celery_body_bytes(&self) -> usize {
        usize::try_from(self.config.celery.max_body_bytes.get()).unwrap_or(usize::MAX)
    }

    async fn default_dead_letters(&self, name: &str, queue: &Queue) -> Result<Queue, BrokerError> {
        if let Some(target) = &queue.redrive_target {
            return self.queue(target).await;
        }
        if self.config.broker.kind == BrokerKind::Local {
            return self.queue(&default_dead_letters(name)).await;
        }
        Err(BrokerError::new(
            Fault::Invalid,
            format!(
                "queue `{name}` has nowhere to put dead letters: set queues.{name}.dead_letters, \
                 give the SQS queue a redrive policy, or set it to \"{DISCARD}\" to lose them"
            ),
        ))
    }

    /// The queue that a message's `reply_to` names, if the source allows it and it exists. The
    /// reason in words where not.
    pub async fn reply(&self, source: &Source, reply_to: &str) -> Result<Queue, BrokerError> {
        if !source.allows_reply(reply_to) {
            return Err(BrokerError::new(
                Fault::Invalid,
                format!(
                    "`reply_to` names a queue that queues.{}.reply_to does not allow",
                    source.name
                ),
            ));
        }
        self.queue(reply_to).await
    }
}

/// Where the local broker puts a queue's dead letters when the configuration does not say.
pub fn default_dead_letters(queue: &str) -> String {
    format!("{queue}-dlq")
}
