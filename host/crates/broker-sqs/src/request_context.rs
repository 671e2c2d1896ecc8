//! What is being done to which queue, for the error that may come of it: what failed, why, and what
//! to do about it.
//!
//! The SDK's own errors are flattened to text here and dropped. Their debug output holds the raw
//! response, and a response holds bodies.

use std::sync::{Arc, Mutex};

use aws_sdk_sqs::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    operation::RequestId,
    types::BatchResultErrorEntry,
};

use super::{
    address,
    fault::{bare, classify, is_identity},
};
use lovage_core::broker::{BrokerError, Fault};

/// The longest text of AWS that is passed on, in characters.
const LONGEST_REASON: usize = 400;

/// The host that requests go to, as the last request had it. Kept to be named in errors: the
/// connector's own do not say whom they could not reach.
#[derive(Debug, Clone, Default)]
pub(super) struct Endpoint(Arc<Mutex<String>>);

impl Endpoint {
    fn name(&self) -> String {
        match self.0.lock() {
            Ok(name) if !name.is_empty() => name.clone(),
            _ => "the SQS endpoint".to_owned(),
        }
    }
}

impl Intercept for Endpoint {
    fn name(&self) -> &'static str {
        "lovage-endpoint"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let host = context.request().uri().split('?').next().unwrap_or_default();
        if let Ok(mut name) = self.0.lock()
            && *name != host
        {
            host.clone_into(&mut name);
        }
        Ok(())
    }
}

/// What was being done: words for the message, and the permission that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Find,
    Describe,
    Receive,
    Extend,
    Send,
    Delete,
    CreateQueue,
    DeleteQueue,
}

impl Action {
    const fn words(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Describe => "read the attributes of",
            Self::Receive => "receive from",
            Self::Extend => "change the visibility of a message on",
            Self::Send => "send to",
            Self::Delete => "delete a message from",
            Self::CreateQueue => "create",
            Self::DeleteQueue => "delete",
        }
    }

    pub(super) const fn permission(self) -> &'static str {
        match self {
            Self::Find => "sqs:GetQueueUrl",
            Self::Describe => "sqs:GetQueueAttributes",
            Self::Receive => "sqs:ReceiveMessage",
            Self::Extend => "sqs:ChangeMessageVisibility",
            Self::Send => "sqs:SendMessage",
            Self::Delete => "sqs:DeleteMessage",
            Self::CreateQueue => "sqs:CreateQueue",
            Self::DeleteQueue => "sqs:DeleteQueue",
        }
    }
}

/// An action on a queue, for the errors that come of it.
#[derive(Debug, Clone)]
pub(super) struct RequestContext {
    action: Action,
    queue: String,
    endpoint: Endpoint,
}

impl RequestContext {
    /// `queue` is a name or an address; of an address only the name is shown.
    pub(super) fn new(action: Action, queue: &str, endpoint: &Endpoint) -> Self {
        Self { action, queue: address::name_of(queue).to_owned(), endpoint: endpoint.clone() }
    }

    /// An error without an answer of AWS behind it.
    pub(super) fn error(&self, fault: Fault, reason: &str) -> BrokerError {
        let (words, queue) = (self.action.words(), &self.queue);
        BrokerError::new(fault, format!("could not {words} queue {queue:?}: {reason}"))
    }

    /// One entry of a batch that failed.
    pub(super) fn entry_error(&self, entry: &BatchResultErrorEntry) -> BrokerError {
        let status = if entry.sender_fault() { 400 } else { 500 };
        self.answered(entry.code(), entry.message().unwrap_or_default(), status, None)
    }

    /// A whole request that failed.
    pub(super) fn sdk_error<E>(&self, error: &SdkError<E>) -> BrokerError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let endpoint = self.endpoint.name();
        let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
        match error {
            SdkError::ServiceError(answer) if answer.err().code().is_some() => self.answered(
                answer.err().code().unwrap_or_default(),
                answer.err().message().unwrap_or_default(),
                status,
                error.request_id(),
            ),
            SdkError::TimeoutError(_) => self.error(
                Fault::Unavailable,
                &format!("{endpoint} did not answer in time; check the network, it is tried again"),
            ),
            SdkError::DispatchFailure(why)
                if !why.is_io() && !why.is_timeout() && is_about_credentials(error) =>
            {
                self.error(Fault::Denied, &no_credentials(&chain(error))).about_identity(true)
            }
            SdkError::DispatchFailure(_) => self.error(
                Fault::Unavailable,
                &format!(
                    "cannot reach {endpoint} ({}); check the network and AWS_ENDPOINT_URL",
                    chain(error)
                ),
            ),
            SdkError::ResponseError(_) | SdkError::ServiceError(_) => self.error(
                Fault::Unavailable,
                &format!(
                    "{endpoint} gave an answer (HTTP {status}) that is not SQS's; check \
                     AWS_ENDPOINT_URL"
                ),
            ),
            _ => self
                .error(Fault::Invalid, &format!("the request could not be made: {}", chain(error))),
        }
    }

    fn answered(&self, code: &str, message: &str, status: u16, id: Option<&str>) -> BrokerError {
        let fault = classify(code, message, status);
        let mut reason = format!("SQS answered {code}");
        // A stale receipt is told in full, and its text would repeat the receipt.
        if !message.is_empty() && fault != Fault::Stale {
            reason.push_str(": ");
            reason.extend(message.trim_end_matches('.').chars().take(LONGEST_REASON));
        }
        if let Some(id) = id {
            reason.push_str(" (request ");
            reason.push_str(id);
            reason.push(')');
        }
        let advice = self.advice(fault, code);
        if !advice.is_empty() {
            reason.push_str("; ");
            reason.push_str(&advice);
        }
        self.error(fault, &reason).about_identity(is_identity(bare(code)))
    }

    fn advice(&self, fault: Fault, code: &str) -> String {
        let code = bare(code);
        match fault {
            Fault::NotFound => {
                "create it, or check the name, the region and the account".to_owned()
            }
            Fault::Denied if code.starts_with("Kms") => {
                "the queue is encrypted: allow kms:Decrypt and kms:GenerateDataKey on its key"
                    .to_owned()
            }
            Fault::Denied if is_identity(code) => {
                "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, the role) and the clock"
                    .to_owned()
            }
            Fault::Denied => format!("allow {} on it", self.action.permission()),
            Fault::Stale => {
                "the lease is over, and the message was or will be delivered again".to_owned()
            }
            Fault::TooLarge => {
                "send less, or raise the queue's MaximumMessageSize (up to 1 MiB)".to_owned()
            }
            Fault::Invalid if code == "InvalidAddress" => {
                "the queue's URL must be of the region that the client is set to".to_owned()
            }
            _ => String::new(),
        }
    }
}

/// What to do where no credentials were found.
pub(super) fn no_credentials(why: &str) -> String {
    let profile = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    if let Some(missing) = lovage_aws::missing_profile() {
        return format!("no AWS credentials: {missing}");
    }
    if let Some(profile) = profile {
        return format!(
            "no AWS credentials: the profile `{}` that AWS_PROFILE names gives none ({why}); mend \
             it, or name another",
            lovage_core::text::one_line(&profile, 200)
        );
    }
    format!(
        "no AWS credentials ({why}); set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, or give the machine, container or function a role"
    )
}

/// The SDK has no type of its own for this: it is a failure to dispatch whose source says so.
fn is_about_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    let text = chain(error).to_lowercase();
    text.contains("credential") || text.contains("identity")
}

/// The error and what lies beneath it, in one line. Leaves out debug output on purpose.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many repeat what lies beneath them.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ").chars().take(LONGEST_REASON).collect()
}

/// The same error once more: one failed request answers for each of its messages.
pub(super) fn again(error: &BrokerError) -> BrokerError {
    BrokerError::new(error.fault, error.message.clone()).about_identity(error.identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: &str, message: &str, sender_fault: bool) -> BatchResultErrorEntry {
        BatchResultErrorEntry::builder()
            .id("0")
            .code(code)
            .message(message)
            .sender_fault(sender_fault)
            .build()
            .unwrap()
    }

    fn request_context(action: Action) -> RequestContext {
        RequestContext::new(action, "https://h/1/jobs", &Endpoint::default())
    }

    #[test]
    fn an_entry_that_sqs_itself_failed_may_pass() {
        let error = request_context(Action::Send).entry_error(&entry("Odd", "try again", false));
        assert_eq!(error.fault, Fault::Unavailable);
    }

    #[test]
    fn an_error_says_what_where_why_and_what_to_do() {
        let error = request_context(Action::Receive).answered(
            "AccessDenied",
            "User: arn:aws:iam::1:user/u is not authorized to perform: sqs:receivemessage.",
            403,
            Some("req-1"),
        );
        assert_eq!(
            error.to_string(),
            "could not receive from queue \"jobs\": SQS answered AccessDenied: User: \
             arn:aws:iam::1:user/u is not authorized to perform: sqs:receivemessage (request \
             req-1); allow sqs:ReceiveMessage on it"
        );
    }

    #[test]
    fn a_receipt_is_not_repeated_in_the_error_about_it() {
        let error = request_context(Action::Delete).entry_error(&entry(
            "InvalidParameterValue",
            "Value AQEBsecret for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            true,
        ));
        assert_eq!(error.fault, Fault::Stale);
        assert!(!error.message.contains("AQEBsecret"), "{error}");
    }
}
