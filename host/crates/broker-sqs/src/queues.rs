//! Queues themselves: finding, counting, and the temporary ones that replies come to.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::types::QueueAttributeName;

use super::{
    SqsBroker,
    address::{self, Arn, Reference},
    request_context::Action,
};
use lovage_core::broker::{BrokerError, Depth, Fault, Queue};

/// The visibility timeout of a queue that is set to none: "default: 30" (SQS API reference,
/// `CreateQueue`).
const DEFAULT_VISIBILITY: Duration = Duration::from_secs(30);

/// How long a reply waits for its reader, in seconds, should the reader be gone.
const REPLY_RETENTION_SECONDS: u32 = 15 * 60;

/// How often a message may be received before SQS itself moves it to the dead letters. Far above what
/// attempts and shutdowns need: the worker puts dead letters there by itself, and this is for messages
/// that take their worker down.
const MAX_RECEIVES: u32 = 50;

/// SQS's longest, in seconds: 14 days.
const LETTERS_RETENTION_SECONDS: u32 = 14 * 24 * 60 * 60;

/// A queue that is made where it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedQueue {
    /// Its name.
    pub name: String,
    /// How long a message is hidden while it is worked on; SQS's default when absent.
    pub visibility: Option<Duration>,
    /// The name of the queue for its dead letters.
    pub dead_letters: Option<String>,
}

impl SqsBroker {
    /// Makes a queue where it is not there, its dead-letter queue first. One that is there stays as it
    /// is.
    pub async fn ensure_queue(&self, wanted: &WantedQueue) -> Result<(), BrokerError> {
        match self.queue_url(&wanted.name, None).await {
            Err(error) if error.fault == Fault::NotFound => {}
            found => return found.map(drop),
        }
        let request_context = self.request_context(Action::CreateQueue, &wanted.name);
        let mut create = self.client.create_queue().queue_name(&wanted.name);
        if address::is_fifo(&wanted.name) {
            create = create.attributes(QueueAttributeName::FifoQueue, "true");
        }
        if let Some(visibility) = wanted.visibility {
            let seconds = visibility.as_secs().clamp(1, super::MAX_VISIBILITY.as_secs());
            create = create.attributes(QueueAttributeName::VisibilityTimeout, seconds.to_string());
        }
        if let Some(letters) = &wanted.dead_letters {
            let arn = self.dead_letter_arn(letters).await?;
            let policy = serde_json::json!({
                "deadLetterTargetArn": arn,
                "maxReceiveCount": MAX_RECEIVES.to_string(),
            });
            create = create.attributes(QueueAttributeName::RedrivePolicy, policy.to_string());
        }
        create.send().await.map_err(|error| request_context.sdk_error(&error))?;
        tracing::info!(queue = %wanted.name, dead_letters = wanted.dead_letters, "queue created");
        Ok(())
    }

    /// The ARN of a queue for dead letters, which is made where it is not there.
    async fn dead_letter_arn(&self, name: &str) -> Result<String, BrokerError> {
        let url = match self.queue_url(name, None).await {
            Err(error) if error.fault == Fault::NotFound => {
                let request_context = self.request_context(Action::CreateQueue, name);
                let mut create = self.client.create_queue().queue_name(name).attributes(
                    QueueAttributeName::MessageRetentionPeriod,
                    LETTERS_RETENTION_SECONDS.to_string(),
                );
                if address::is_fifo(name) {
                    create = create.attributes(QueueAttributeName::FifoQueue, "true");
                }
                let made =
                    create.send().await.map_err(|error| request_context.sdk_error(&error))?;
                tracing::info!(queue = name, "queue created, for dead letters");
                made.queue_url.ok_or_else(|| {
                    request_context.error(Fault::Unavailable, "SQS answered without a URL")
                })?
            }
            found => found?,
        };
        let request_context = self.request_context(Action::Describe, &url);
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error))?;
        let arn = answer.attributes.and_then(|mut it| it.remove(&QueueAttributeName::QueueArn));
        arn.ok_or_else(|| {
            request_context.error(Fault::Unavailable, "SQS answered without the queue's ARN")
        })
    }

    /// The queue at this URL, unseen: nothing is asked of SQS, so no permission but to send is
    /// needed, and a queue that is not there shows only when something is sent. `None` where it is
    /// no queue's URL.
    pub fn queue_at(url: &str) -> Option<Queue> {
        matches!(Reference::parse(url), Ok(Reference::Url(_))).then(|| unseen(url))
    }

    pub(super) async fn open_queue(&self, name: &str) -> Result<Queue, BrokerError> {
        let reference = Reference::parse(name).map_err(|reason| {
            self.request_context(Action::Find, name).error(Fault::Invalid, &reason)
        })?;
        let address = match reference {
            Reference::Url(url) => url.to_owned(),
            Reference::Arn(_) => self.url_from_arn(name).await?,
            Reference::Name(name) => self.queue_url(name, None).await?,
        };
        self.describe(&address).await
    }

    /// The address of the queue with this ARN, as the records of an SQS event name it
    /// (`eventSourceARN`). One `GetQueueUrl` request: keep the answer.
    ///
    /// [`Fault::Invalid`] where the ARN is not of a queue in the client's own region, since a
    /// client talks to one region.
    pub async fn url_from_arn(&self, arn: &str) -> Result<String, BrokerError> {
        let request_context = self.request_context(Action::Find, arn);
        let Some(Arn { region, account, name }) = Arn::parse(arn) else {
            return Err(request_context.error(
                Fault::Invalid,
                &format!("{arn:?} is not an ARN of the form arn:aws:sqs:REGION:ACCOUNT:NAME"),
            ));
        };
        let own = self.client.config().region().map(AsRef::as_ref);
        if own.is_some_and(|own: &str| own != region) {
            return Err(request_context.error(
                Fault::Invalid,
                &format!(
                    "it is in region {region}, and this client in {}; set AWS_REGION",
                    own.unwrap_or_default()
                ),
            ));
        }
        self.queue_url(name, Some(account)).await
    }

    async fn queue_url(&self, name: &str, account: Option<&str>) -> Result<String, BrokerError> {
        let request_context = self.request_context(Action::Find, name);
        let output = self
            .client
            .get_queue_url()
            .queue_name(name)
            .set_queue_owner_aws_account_id(account.map(str::to_owned))
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error))?;
        output
            .queue_url
            .ok_or_else(|| request_context.error(Fault::Unavailable, "SQS answered without a URL"))
    }

    /// The queue at this address. Its attributes are good to know and not needed, so a worker that
    /// may not read them goes on without.
    async fn describe(&self, address: &str) -> Result<Queue, BrokerError> {
        let mut queue = unseen(address);
        let request_context = self.request_context(Action::Describe, address);
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(address)
            .attribute_names(QueueAttributeName::VisibilityTimeout)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error));
        let attributes = match answer {
            Ok(output) => output.attributes.unwrap_or_default(),
            Err(error) if error.fault == Fault::Denied => {
                tracing::warn!(
                    queue = %queue.name,
                    permission = Action::Describe.permission(),
                    %error,
                    "going on without the queue's attributes: assuming a visibility timeout of 30 \
                     seconds and no dead-letter queue"
                );
                return Ok(queue);
            }
            Err(error) => return Err(error),
        };
        if let Some(seconds) = attributes
            .get(&QueueAttributeName::VisibilityTimeout)
            .and_then(|text| text.parse().ok())
        {
            queue.visibility_timeout = Duration::from_secs(seconds);
        }
        queue.redrive_target = attributes
            .get(&QueueAttributeName::RedrivePolicy)
            .and_then(|policy| serde_json::from_str::<RedrivePolicy>(policy).ok())
            .and_then(|policy| address::sibling(address, &policy.dead_letter_target_arn))
            .map(Arc::from);
        Ok(queue)
    }

    pub(super) async fn count(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        let request_context = self.request_context(Action::Describe, &queue.address);
        let attributes = self
            .client
            .get_queue_attributes()
            .queue_url(&*queue.address)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error))?
            .attributes
            .unwrap_or_default();
        let number = |name| attributes.get(&name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Depth {
            ready: number(QueueAttributeName::ApproximateNumberOfMessages),
            delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        })
    }

    /// Creates a queue of its own for the replies to one caller: `lovage-reply-` and a UUID. What
    /// is not read is gone after 15 minutes; the queue itself stays until
    /// [`delete_queue`](Self::delete_queue), as SQS has no queues that end by themselves.
    pub async fn create_reply_queue(&self) -> Result<Queue, BrokerError> {
        let name = format!("lovage-reply-{}", uuid::Uuid::new_v4());
        let request_context = self.request_context(Action::CreateQueue, &name);
        let address = self
            .client
            .create_queue()
            .queue_name(&name)
            .attributes(
                QueueAttributeName::MessageRetentionPeriod,
                REPLY_RETENTION_SECONDS.to_string(),
            )
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error))?
            .queue_url
            .ok_or_else(|| {
                request_context.error(Fault::Unavailable, "SQS answered without a URL")
            })?;
        Ok(Queue {
            name: Arc::from(name),
            address: Arc::from(address),
            fifo: false,
            visibility_timeout: DEFAULT_VISIBILITY,
            redrive_target: None,
        })
    }

    /// Deletes a queue with all that it holds.
    pub async fn delete_queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        let request_context = self.request_context(Action::DeleteQueue, &queue.address);
        self.client
            .delete_queue()
            .queue_url(&*queue.address)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| request_context.sdk_error(&error))
    }
}

/// What a queue's URL alone tells of it.
fn unseen(url: &str) -> Queue {
    Queue {
        name: Arc::from(address::name_of(url)),
        address: Arc::from(url),
        fifo: address::is_fifo(url),
        visibility_timeout: DEFAULT_VISIBILITY,
        redrive_target: None,
    }
}

/// The part of `RedrivePolicy` that is of use here.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
}
