//! Which settings hold for an event's jobs, and the queues that go with them: looked up once, and
//! remembered, so that an event costs no request but those that publish its results.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::Function;
use lovage_broker_sqs::SqsBroker;
use lovage_config::{DEFAULT_QUEUE, DISCARD, QueueConfig};
use lovage_core::broker::{BrokerError, Fault, Queue};
use lovage_runtime::routes::Source;

/// What an invocation without a queue is called in logs and dead letters.
const INVOCATION: &str = "invocation";

/// Sources by the ARN of their queue, or [`INVOCATION`].
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<String, Arc<Source>>>);

impl Function {
    /// The queue that an event came from, with its settings: those of the queue in the
    /// configuration that has the same name, else those of `lambda.queue`.
    pub(super) async fn source_of_arn(&self, arn: &str) -> Result<Arc<Source>, BrokerError> {
        // Under the lock: of several invocations at once, one looks, and the others wait for it.
        let mut sources = self.sources.0.lock().await;
        if let Some(source) = sources.get(arn) {
            return Ok(Arc::clone(source));
        }
        let queue = self.routes.queue(arn).await?;
        let same = |(name, settings): &(&String, &QueueConfig)| {
            let address = settings.address.as_deref().unwrap_or(name);
            address == arn || address.rsplit(['/', ':']).next() == Some(&*queue.name)
        };
        let (name, settings) = match self.config.queues.iter().find(same) {
            Some((name, settings)) => (name.clone(), settings.clone()),
            None => (queue.name.to_string(), self.settings()?),
        };
        self.trust([&settings.results, &settings.dead_letters]).await;
        self.trust([&queue.redrive_target.as_deref().map(str::to_owned)]).await;
        let source = Arc::new(self.routes.source_of(&name, queue, &settings).await?);
        sources.insert(arn.to_owned(), Arc::clone(&source));
        Ok(source)
    }

    /// What stands for the queue of jobs that the function was invoked with.
    pub(super) async fn source_of_invocations(&self) -> Result<Arc<Source>, BrokerError> {
        let mut sources = self.sources.0.lock().await;
        if let Some(source) = sources.get(INVOCATION) {
            return Ok(Arc::clone(source));
        }
        let mut settings = self.settings()?;
        // There is no queue whose redrive policy could say where.
        settings.dead_letters.get_or_insert_with(|| DISCARD.to_owned());
        self.trust([&settings.results, &settings.dead_letters]).await;
        let queue = Queue {
            name: Arc::from(INVOCATION),
            address: Arc::from(INVOCATION),
            fifo: false,
            visibility_timeout: Duration::from_secs(30),
            redrive_target: None,
        };
        let source = Arc::new(self.routes.source_of(INVOCATION, queue, &settings).await?);
        sources.insert(INVOCATION.to_owned(), Arc::clone(&source));
        Ok(source)
    }

    /// The settings for jobs of queues that the configuration does not name, and for those that
    /// come without a queue.
    fn settings(&self) -> Result<QueueConfig, BrokerError> {
        let name = match (&self.config.lambda.queue, self.config.consumed_queues().as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.clone(),
            (None, []) => DEFAULT_QUEUE.to_owned(),
            (None, several) => {
                return Err(BrokerError::new(
                    Fault::Invalid,
                    format!(
                        "the settings of several queues could hold for this job ({}); name the \
                         one in lambda.queue (LOVAGE__LAMBDA__QUEUE)",
                        several.join(", ")
                    ),
                ));
            }
        };
        Ok(self.config.queue(&name).unwrap_or_default())
    }

    /// Takes queues that are only sent to by their URL, where the configuration has it: the
    /// function then needs no permission on them but to send, and its first event no request.
    async fn trust<const N: usize>(&self, names: [&Option<String>; N]) {
        for name in names.into_iter().flatten() {
            if let Some(queue) = SqsBroker::queue_at(self.config.address(name)) {
                self.routes.know(name, queue).await;
            }
        }
    }
}
