//! Which queues belong together: where a queue's jobs come from, where their results and dead
//! letters go. Resolved once at the start, so that a missing queue is told before a job runs.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Mutex;

use crate::message::{Defaults, Trust};
use lovage_celery::sqs_name;
use lovage_config::{BrokerKind, Config, DISCARD, QueueConfig, ResultFormat};
use lovage_core::{
    broker::{Broker, BrokerError, Fault, Queue, Send},
    format::Format,
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
    /// Returns true if a message may name a queue for its result.
    pub fn allows_reply(&self, reply_to: &str) -> bool {
        self.reply_to.iter().any(|pattern| matches_pattern(pattern, reply_to))
    }
}

/// Returns true if a name is a pattern's; `*` at the pattern's end matches any rest.
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
    /// Queues that the configuration names.
    own: Mutex<HashMap<String, Queue>>,
    /// Queues that senders name. Apart, so that no number of them displaces the operator's.
    senders: Mutex<SenderQueues>,
    celery_tasks: Arc<BTreeMap<String, String>>,
}

impl Routes {
    /// Routes as a configuration says them.
    pub fn new(broker: Arc<dyn Broker>, config: Arc<Config>) -> Self {
        let celery_tasks = Arc::new(config.celery.tasks.clone());
        Self { broker, config, own: Mutex::default(), senders: Mutex::default(), celery_tasks }
    }

    /// A queue that the operator names: by its name in the configuration, or by its address.
    pub async fn queue(&self, name: &str) -> Result<Queue, BrokerError> {
        if let Some(queue) = self.own.lock().await.get(name) {
            return Ok(queue.clone());
        }
        // Not under the lock: a broker that does not answer must not hold up other queues.
        let queue = self.broker.open(&self.address(name)).await?;
        self.know(name, queue.clone()).await;
        Ok(queue)
    }

    /// What the broker knows a queue of the configuration by. A queue of Celery's without an address
    /// of its own has the name that kombu gives it.
    fn address<'a>(&'a self, name: &'a str) -> Cow<'a, str> {
        let settings = self.config.queues.get(name);
        let named = settings.is_some_and(|it| it.format == Format::Celery && it.address.is_none());
        if named { self.celery_name(name) } else { Cow::Borrowed(self.config.address(name)) }
    }

    /// The broker's name for a queue that is Celery's `name`.
    pub fn celery_name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match self.config.broker.kind {
            BrokerKind::Sqs if !is_address(name) => sqs_name(name),
            _ => Cow::Borrowed(name),
        }
    }

    /// A queue that a sender names. What it may name is for the caller to check.
    async fn senders_queue(&self, name: &str) -> Result<Queue, BrokerError> {
        if let Some(queue) = self.senders.lock().await.get(name) {
            return Ok(queue);
        }
        let queue = self.broker.open(&self.address(name)).await?;
        self.senders.lock().await.insert(name, queue.clone());
        Ok(queue)
    }

    /// A queue that a workflow of Celery's names, by Celery's name. What it may name is for the
    /// caller to check. It cannot name a queue by an address: that is for the operator.
    pub async fn celery_queue(&self, name: &str) -> Result<Queue, BrokerError> {
        if self.config.queues.contains_key(name) {
            return self.queue(name).await;
        }
        match self.config.broker.kind {
            BrokerKind::Sqs => self.senders_queue(&sqs_name(name)).await,
            BrokerKind::Local => self.senders_queue(name).await,
        }
    }

    /// A queue that the operator names by Celery's name, or by its address.
    pub async fn operators_celery_queue(&self, name: &str) -> Result<Queue, BrokerError> {
        if self.config.queues.contains_key(name) {
            return self.queue(name).await;
        }
        self.queue(&self.celery_name(name)).await
    }

    /// Remembers a queue that the operator names and that was found in another way.
    pub async fn know(&self, name: &str, queue: Queue) {
        self.own.lock().await.insert(name.to_owned(), queue);
    }

    /// Sends a message by itself.
    pub async fn send(&self, send: &Send) -> Result<(), BrokerError> {
        let queue = at(&send.to);
        let answers = self.broker.send(&queue, std::slice::from_ref(&send.message)).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Looks for a queue that a sender names anew when it is asked for the next time.
    pub async fn forget(&self, name: &str) {
        self.senders.lock().await.remove(name);
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

    /// What a queue supplies where a message is silent.
    pub fn defaults_of(&self, queue: &Queue, settings: &QueueConfig) -> Defaults {
        Defaults {
            format: settings.format,
            task: settings.default_task.clone(),
            tenant: settings.tenant.clone(),
            trust: Trust { from: settings.tenant_from.clone(), required: settings.tenant_required },
            content_type: settings.content_type.clone(),
            fifo: queue.fifo,
            celery_tasks: Arc::clone(&self.celery_tasks),
            celery_body_bytes: self.celery_body_bytes(),
        }
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
            defaults: self.defaults_of(&queue, settings),
            queue,
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
            return self.queue(&lovage_config::default_dead_letters(name)).await;
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
        self.senders_queue(reply_to).await
    }
}

/// A queue by its address, unseen: all that it takes to send to it.
pub fn at(address: &Arc<str>) -> Queue {
    Queue {
        name: address.rsplit('/').next().unwrap_or(address).into(),
        address: Arc::clone(address),
        fifo: address.strip_suffix(".fifo").is_some(),
        visibility_timeout: Duration::from_secs(30),
        redrive_target: None,
    }
}

/// True for a URL or an ARN, which only the operator writes.
fn is_address(name: &str) -> bool {
    ["https://", "http://", "arn:"].iter().any(|start| name.starts_with(start))
}

/// Queues that senders name, of which about [`REMEMBERED`] are remembered: of two generations, the
/// older goes when the younger is full.
#[derive(Debug, Default)]
struct SenderQueues {
    young: HashMap<String, Queue>,
    old: HashMap<String, Queue>,
}

impl SenderQueues {
    fn get(&mut self, name: &str) -> Option<Queue> {
        if let Some(queue) = self.young.get(name) {
            return Some(queue.clone());
        }
        let queue = self.old.remove(name)?;
        self.insert(name, queue.clone());
        Some(queue)
    }

    fn insert(&mut self, name: &str, queue: Queue) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name.to_owned(), queue);
    }

    fn remove(&mut self, name: &str) {
        self.young.remove(name);
        self.old.remove(name);
    }
}
