//! A guest's failure, made fit for logs, terminals and results.

use lovage_core::{
    outcome::Failure,
    text::{one_line, printable},
};

/// The most bytes of a failure's kind.
pub const KIND_BYTES: usize = 200;
/// The most bytes of a failure's message.
pub const MESSAGE_BYTES: usize = 8 << 10;
/// The most bytes of a failure's detail.
pub const DETAIL_BYTES: usize = 64 << 10;

/// Makes a guest's failure fit: one line each for kind and message, lengths bounded. A kind or a
/// message that is empty is given a word, since both are looked at by people and machines.
pub fn fit(failure: Failure) -> Failure {
    let line = |text: &str, max, empty: &str| {
        let text = one_line(text.trim(), max);
        if text.is_empty() { empty.to_owned() } else { text }
    };
    Failure {
        kind: line(&failure.kind, KIND_BYTES, "failed"),
        message: line(&failure.message, MESSAGE_BYTES, "the guest gave no reason"),
        detail: failure
            .detail
            .map(|detail| printable(&detail, DETAIL_BYTES))
            .filter(|detail| !detail.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_bounded_whatever_the_guest_says() {
        let huge = "\u{1b}".repeat(1 << 20);
        let bounded = fit(Failure::new(huge.clone(), huge.clone()).with_detail(huge));
        assert!(bounded.kind.len() <= KIND_BYTES);
        assert!(bounded.message.len() <= MESSAGE_BYTES);
        assert!(bounded.detail.unwrap().len() <= DETAIL_BYTES);
        let empty = fit(Failure::new(" ", ""));
        assert_eq!(empty.kind, "failed");
        assert_eq!(empty.message, "the guest gave no reason");
        assert_eq!(empty.detail, None);
    }
}
