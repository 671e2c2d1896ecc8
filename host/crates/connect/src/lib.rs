//! From a configuration to a broker that is ready to be used.

#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use lovage_broker_sqs::{SqsBroker, WantedQueue};
use lovage_celery::sqs_name;
use lovage_config::{BrokerKind, Config, DISCARD, QueueConfig, default_dead_letters};
use lovage_core::{
    broker::{Broker, BrokerError},
    format::Format,
};

/// Connects to the broker that the configuration names. On the local broker all configured queues
/// exist afterwards; on SQS those with `create = true` do.
pub async fn connect(config: &Config) -> Result<Arc<dyn Broker>, BrokerError> {
    match config.broker.kind {
        BrokerKind::Sqs => {
            let broker = SqsBroker::connect().await?;
            for wanted in wanted_queues(config) {
                broker.ensure_queue(&wanted).await?;
            }
            Ok(Arc::new(broker))
        }
        #[cfg(feature = "local")]
        BrokerKind::Local => Ok(Arc::new(local(config).await?)),
        #[cfg(not(feature = "local"))]
        BrokerKind::Local => Err(BrokerError::new(
            lovage_core::broker::Fault::Unsupported,
            "this build has no embedded broker; set broker.kind to `sqs`",
        )),
    }
}

/// The queues of SQS that `create = true` is said of, those that others depend on first.
fn wanted_queues(config: &Config) -> Vec<WantedQueue> {
    let mut all: Vec<WantedQueue> = Vec::new();
    // As `Routes` has it: a queue of Celery's has the name that kombu gives it.
    let address = |name: &str| {
        let queue = config.queues.get(name);
        if queue.is_some_and(|it| it.format == Format::Celery && it.address.is_none()) {
            sqs_name(name).into_owned()
        } else {
            config.address(name).to_owned()
        }
    };
    let mut want = |wanted: WantedQueue| {
        // What the configuration says of a queue of its own stands over what others need of it.
        if !is_address(&wanted.name) && !all.iter().any(|it| it.name == wanted.name) {
            all.push(wanted);
        }
    };
    let created = || config.queues.iter().filter(|(_, queue)| queue.create);
    let visibility =
        |queue: &QueueConfig| queue.visibility_timeout_ms.map(|ms| Duration::from_millis(ms.get()));
    for (name, queue) in created().filter(|(_, queue)| !queue.consume) {
        let (name, visibility) = (address(name), visibility(queue));
        want(WantedQueue { name, visibility, dead_letters: None });
    }
    for (name, queue) in created().filter(|(_, queue)| queue.consume) {
        let own = address(name);
        let letters = match queue.dead_letters.as_deref() {
            Some(DISCARD) => None,
            Some(letters) => Some(address(letters)),
            // Of a FIFO queue it is one, too.
            None => Some(match own.strip_suffix(".fifo") {
                Some(start) => default_dead_letters(start) + ".fifo",
                None => default_dead_letters(&own),
            }),
        };
        let results = queue.results.as_deref().map(address);
        if let Some(name) = results {
            want(WantedQueue { name, visibility: None, dead_letters: None });
        }
        let dead_letters = letters.filter(|letters| !is_address(letters));
        let (name, visibility) = (own, visibility(queue));
        want(WantedQueue { name, visibility, dead_letters });
    }
    all
}

/// Whether a queue is named by its URL or ARN: such a one is somebody's already.
fn is_address(name: &str) -> bool {
    name.contains(':') || name.contains('/')
}

#[cfg(feature = "local")]
async fn local(config: &Config) -> Result<lovage_broker_local::LocalBroker, BrokerError> {
    use std::collections::BTreeMap;

    use lovage_broker_local::{LocalBroker, LocalOptions};
    use lovage_config::DEFAULT_QUEUE;

    /// The visibility timeout of queues that do not set theirs: SQS's own default.
    const VISIBILITY: Duration = Duration::from_secs(30);

    let options =
        LocalOptions { retention: Duration::from_millis(config.broker.result_retention_ms) };
    let path = config.broker.path.clone();
    // It may wait for a lock, and the metrics are to be had meanwhile.
    let opened = tokio::task::spawn_blocking(move || LocalBroker::open(&path, options)).await;
    let broker = opened.map_err(|error| {
        let what =
            format!("opening the broker's database {} broke off", config.broker.path.display());
        BrokerError::caused_by(lovage_core::broker::Fault::Unavailable, what, error)
    })??;
    let retain = |address: &str, own: Option<u64>, consumed: bool| {
        let others = (!consumed).then_some(config.broker.message_retention_ms);
        if let Some(ms) = own.or(others).filter(|ms| *ms > 0) {
            broker.retain(address, Duration::from_millis(ms));
        }
    };
    let consumed = config.consumed_queues();
    let mut queues: BTreeMap<&str, QueueConfig> =
        config.queues.iter().map(|(name, queue)| (name.as_str(), queue.clone())).collect();
    if queues.is_empty() {
        queues.insert(DEFAULT_QUEUE, QueueConfig::default());
    }
    for (name, queue) in &queues {
        let visibility =
            queue.visibility_timeout_ms.map_or(VISIBILITY, |ms| Duration::from_millis(ms.get()));
        broker.declare(config.address(name), queue.fifo, visibility).await?;
        let is_consumed = queue.consume || consumed.iter().any(|name_of| name_of == name);
        retain(config.address(name), queue.retention_ms, is_consumed);
        if !queue.consume {
            continue;
        }
        let letters = queue.dead_letters.clone().unwrap_or_else(|| default_dead_letters(name));
        // Named ones that are in the configuration are declared by their own settings.
        if letters != DISCARD && !queues.contains_key(letters.as_str()) {
            broker.declare(config.address(&letters), queue.fifo, VISIBILITY).await?;
            retain(config.address(&letters), None, false);
        }
    }
    Ok(broker)
}
