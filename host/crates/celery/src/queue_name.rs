//! Names of queues, as kombu's SQS transport writes them for SQS.
//!
//! SQS takes letters, digits, hyphens and underscores. kombu replaces a full stop by a hyphen and all
//! other punctuation of ASCII by an underscore, but for the `.fifo` that a FIFO queue's name ends with.

use std::borrow::Cow;

const FIFO: &str = ".fifo";

/// The name that kombu gives a queue on SQS: `reports.eu` is `reports-eu`.
pub fn sqs_name(name: &str) -> Cow<'_, str> {
    let stem = name.strip_suffix(FIFO).unwrap_or(name);
    let is_replaced = |c: char| c.is_ascii_punctuation() && c != '-' && c != '_';
    if !stem.contains(is_replaced) {
        return Cow::Borrowed(name);
    }
    let replace = |c| match c {
        '.' => '-',
        c if is_replaced(c) => '_',
        c => c,
    };
    let mut replaced: String = stem.chars().map(replace).collect();
    replaced.push_str(name.get(stem.len()..).unwrap_or_default());
    Cow::Owned(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kombu.transport.SQS.Channel.entity_name` of kombu 5.7.0.
    #[test]
    fn names_of_queues_are_those_that_kombu_gives_them() {
        for (name, expected) in [
            ("celery", "celery"),
            ("reports.eu", "reports-eu"),
            ("a.b.fifo", "a-b.fifo"),
            (".fifo", ".fifo"),
            ("a.fifo.b", "a-fifo-b"),
            ("a_b-c", "a_b-c"),
            ("a:b/c@d", "a_b_c_d"),
            ("https://sqs.eu.amazonaws.com/1/q", "https___sqs-eu-amazonaws-com_1_q"),
            ("über", "über"),
            ("", ""),
        ] {
            assert_eq!(sqs_name(name), expected);
        }
    }
}
