//! What the error codes of AWS mean to a caller.
//!
//! Codes come in two spellings, the JSON protocol's (`QueueDoesNotExist`) and the older query
//! protocol's (`AWS.SimpleQueueService.NonExistentQueue`). SQS still uses both, the second in the
//! entries of a batch.

use lovage_core::broker::Fault;

/// What SQS says when a visibility timeout would hold a message for more than twelve hours:
/// "Total `VisibilityTimeout` for the message is beyond the limit [43200 seconds]".
pub(super) const BEYOND_THE_LIMIT: &str = "beyond the limit";

/// The code without the namespace before it.
pub(super) fn bare(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

/// What an error means to the caller.
pub(super) fn classify(code: &str, message: &str, status: u16) -> Fault {
    let code = bare(code);
    match code {
        "QueueDoesNotExist" | "NonExistentQueue" => Fault::NotFound,
        "ReceiptHandleIsInvalid" | "MessageNotInflight" | "InvalidIdFormat" => Fault::Stale,
        "BatchRequestTooLong" => Fault::TooLarge,
        "UnsupportedOperation" => Fault::Unsupported,
        // Credentials that have expired: somebody has to renew them, and does so while the worker runs.
        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "OverLimit"
        | "KmsThrottled"
        | "QueueDeletedRecently"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "RequestTimeout" => Fault::Unavailable,
        _ if is_identity(code)
            || code.starts_with("AccessDenied")
            || code.starts_with("Kms")
            || matches!(code, "InvalidSecurity" | "OptInRequired") =>
        {
            Fault::Denied
        }
        // One code for much: SQS tells the cases apart in words.
        "InvalidParameterValue" if is_stale(message) => Fault::Stale,
        "InvalidParameterValue" if message.contains("must be shorter than") => Fault::TooLarge,
        _ if status >= 500 || status == 429 => Fault::Unavailable,
        _ if status == 403 => Fault::Denied,
        _ => Fault::Invalid,
    }
}

/// "The receipt handle has expired", and "Message does not exist or is not available for
/// visibility timeout change".
fn is_stale(message: &str) -> bool {
    message.contains("receipt handle has expired")
        || message.contains("not available for visibility timeout change")
        || message.contains("for parameter ReceiptHandle is invalid")
}

/// Returns true if a code is about who we are rather than what we may do.
pub(super) fn is_identity(code: &str) -> bool {
    lovage_aws::IDENTITY_CODES.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_spellings_lead_to_one_fault() {
        for (code, message, status, fault) in [
            ("QueueDoesNotExist", "", 400, Fault::NotFound),
            ("AWS.SimpleQueueService.NonExistentQueue", "", 400, Fault::NotFound),
            ("ReceiptHandleIsInvalid", "", 400, Fault::Stale),
            ("AWS.SimpleQueueService.MessageNotInflight", "", 400, Fault::Stale),
            (
                "InvalidParameterValue",
                "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
                400,
                Fault::Stale,
            ),
            (
                "InvalidParameterValue",
                "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change.",
                400,
                Fault::Stale,
            ),
            (
                "InvalidParameterValue",
                "Value 43200 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
                400,
                Fault::Invalid,
            ),
            (
                "InvalidParameterValue",
                "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes.",
                400,
                Fault::TooLarge,
            ),
            ("AWS.SimpleQueueService.BatchRequestTooLong", "", 400, Fault::TooLarge),
            ("AccessDenied", "", 403, Fault::Denied),
            ("AccessDeniedException", "", 400, Fault::Denied),
            ("KmsAccessDenied", "", 400, Fault::Denied),
            ("ExpiredToken", "", 403, Fault::Unavailable),
            ("RequestThrottled", "", 403, Fault::Unavailable),
            ("ThrottlingException", "", 400, Fault::Unavailable),
            ("AWS.SimpleQueueService.KmsThrottled", "", 400, Fault::Unavailable),
            ("OverLimit", "", 403, Fault::Unavailable),
            ("InternalError", "", 500, Fault::Unavailable),
            ("Nameless", "", 503, Fault::Unavailable),
            ("InvalidMessageContents", "", 400, Fault::Invalid),
        ] {
            assert_eq!(classify(code, message, status), fault, "{code} {message}");
        }
    }
}
