//! From a configuration to a broker that is ready to be used.

use std::sync::Arc;

use crate::{
    broker::{Broker, BrokerError, sqs::SqsBroker},
    config::{BrokerKind, Config},
};

/// Connects to the broker that the configuration names. On the local broker all configured queues
/// exist afterwards; on SQS none is made.
pub async fn connect(config: &Config) -> Result<Arc<dyn Broker>, BrokerError> {
    match config.broker.kind {
        BrokerKind::Sqs => Ok(Arc::new(SqsBroker::connect().await?)),
        #[cfg(feature = "local")]
        BrokerKind::Local => Ok(Arc::new(local(config).await?)),
        #[cfg(not(feature = "local"))]
        BrokerKind::Local => Err(BrokerError::new(
            crate::broker::Fault::Unsupported,
            "this build has no embedded broker; set broker.kind to `sqs`",
        )),
    }
}

#[cfg(feature = "local")]
async fn local(config: &Config) -> Result<crate::broker::local::LocalBroker, BrokerError> {
    use std::{collections::BTreeMap, time::Duration};

    use crate::{
        broker::local::{LocalBroker, LocalOptions},
        config::{DEFAULT_QUEUE, DISCARD, QueueConfig},
        routes::default_dead_letters,
    };

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
        BrokerError::caused_by(crate::broker::Fault::Unavailable, what, error)
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
