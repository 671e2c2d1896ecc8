//! What names a queue: a name, a URL, or an ARN.
//!
//! SQS addresses a queue by URL alone. Names and ARNs are turned to URLs by `GetQueueUrl`, never by
//! `ListQueues`: a worker should not need a permission to see every queue of the account.
//!
//! A URL is never connected to. It travels in the request, and the request goes to the endpoint
//! that the client is set up with; so a URL that came in a message (a reply address) cannot make
//! the worker call a host of the sender's choice.

/// A reference to a queue, as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference<'a> {
    /// A URL, taken as it is.
    Url(&'a str),
    /// An ARN.
    Arn(Arn<'a>),
    /// A name in the client's own account and region.
    Name(&'a str),
}

/// `arn:PARTITION:sqs:REGION:ACCOUNT:NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arn<'a> {
    pub region: &'a str,
    pub account: &'a str,
    pub name: &'a str,
}

impl<'a> Arn<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        if next()? != "arn" {
            return None;
        }
        let _partition = next()?;
        if next()? != "sqs" {
            return None;
        }
        let (region, account, name) = (next()?, next()?, next()?);
        (parts.next().is_none() && is_name(name)).then_some(Self { region, account, name })
    }
}

impl<'a> Reference<'a> {
    /// What `text` is, or in which way it is none of the three.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return if is_name(name_of(text)) {
                Ok(Self::Url(text))
            } else {
                Err(format!("{text:?} is a URL, but its last segment is no queue's name"))
            };
        }
        if text.starts_with("arn:") {
            return Arn::parse(text).map(Self::Arn).ok_or_else(|| {
                format!("{text:?} is not an ARN of the form arn:aws:sqs:REGION:ACCOUNT:NAME")
            });
        }
        if is_name(text) {
            return Ok(Self::Name(text));
        }
        Err(format!(
            "{text:?} is no queue: give a name (1 to 80 letters, digits, hyphens and underscores, \
             and `.fifo` at the end of a FIFO queue's), a URL, or an ARN"
        ))
    }
}

/// Whether SQS would take this as a queue's name: "up to 80 characters; alphanumeric characters,
/// hyphens and underscores", and a FIFO queue's must end with `.fifo`.
fn is_name(text: &str) -> bool {
    let stem = text.strip_suffix(".fifo").unwrap_or(text);
    !stem.is_empty()
        && text.len() <= 80
        && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The name in a URL: its last segment.
pub(super) fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Whether the queue is FIFO. The name tells: a FIFO queue's must end with `.fifo`, and a standard
/// queue's may hold no full stop.
pub(super) fn is_fifo(address: &str) -> bool {
    address.strip_suffix(".fifo").is_some()
}

/// The URL of the dead-letter queue with this ARN, made from the URL of its source.
///
/// Needs no request, since "the dead-letter queue of a queue must be in the same account and
/// region" (SQS developer guide): account and name are the last segments of both URLs.
pub(super) fn sibling(url: &str, arn: &str) -> Option<String> {
    let arn = Arn::parse(arn)?;
    let mut segments = url.rsplitn(3, '/');
    let (_name, _account) = (segments.next()?, segments.next()?);
    let base = segments.next()?;
    Some(format!("{base}/{}/{}", arn.account, arn.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_urls_and_arns_are_told_apart() {
        assert_eq!(Reference::parse("jobs"), Ok(Reference::Name("jobs")));
        assert_eq!(Reference::parse("jobs.fifo"), Ok(Reference::Name("jobs.fifo")));
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs";
        assert_eq!(Reference::parse(url), Ok(Reference::Url(url)));
        assert_eq!(
            Reference::parse("arn:aws-cn:sqs:cn-north-1:123456789012:jobs"),
            Ok(Reference::Arn(Arn { region: "cn-north-1", account: "123456789012", name: "jobs" }))
        );
    }

    #[test]
    fn what_is_no_queue_is_refused_with_the_text_that_was_given() {
        for wrong in [
            "",
            "my queue",
            ".fifo",
            "a.b",
            "arn:aws:sns:eu-west-1:1:topic",
            "arn:aws:sqs:eu-west-1:1",
            "arn:aws:sqs:eu-west-1:1:a:b",
            "https://sqs.eu-west-1.amazonaws.com/",
            &"x".repeat(81),
        ] {
            let reason = Reference::parse(wrong).unwrap_err();
            assert!(reason.contains(wrong), "{reason}");
        }
    }

    #[test]
    fn a_dead_letter_queue_is_addressed_beside_its_source() {
        assert_eq!(
            sibling(
                "http://localhost:4566/000000000000/jobs",
                "arn:aws:sqs:us-east-1:000000000000:jobs-dead"
            )
            .as_deref(),
            Some("http://localhost:4566/000000000000/jobs-dead")
        );
        assert_eq!(sibling("http://localhost:4566/0/jobs", "nonsense"), None);
    }

    #[test]
    fn the_name_tells_a_fifo_queue() {
        assert!(is_fifo("https://sqs.eu-west-1.amazonaws.com/1/jobs.fifo"));
        assert!(!is_fifo("https://sqs.eu-west-1.amazonaws.com/1/fifo"));
        assert_eq!(name_of("https://h/1/jobs.fifo"), "jobs.fifo");
    }
}
