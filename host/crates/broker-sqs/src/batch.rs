//! How many go into one request.

use std::ops::Range;

/// "A single message batch request can include a maximum of 10 messages" (SQS message quotas); the
/// same holds for deletes and changes of visibility.
pub(super) const MAX_ENTRIES: usize = 10;

/// "The maximum allowed individual message size and the maximum total payload size (the sum of the
/// individual lengths of all of the batched messages) are both 1 MiB" (SQS API reference,
/// `SendMessageBatch`).
pub(super) const MAX_BYTES: usize = 1_048_576;

/// Splits messages of these sizes into batches: in order, each as full as it can be. One that is
/// over the limit by itself gets a batch of its own.
pub(super) fn chunks(sizes: &[usize]) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0usize);
    for (index, size) in sizes.iter().enumerate() {
        let full = index - start == MAX_ENTRIES;
        if index > start && (full || bytes.saturating_add(*size) > MAX_BYTES) {
            chunks.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(*size);
    }
    if start < sizes.len() {
        chunks.push(start..sizes.len());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_keep_the_limits_and_the_order_and_lose_nothing(
            sizes in prop::collection::vec(
                prop_oneof![1usize..2_000, 1usize..=MAX_BYTES], 0..60),
        ) {
            let chunks = chunks(&sizes);
            let mut next = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.start, next, "in order, without a gap");
                prop_assert!(!chunk.is_empty());
                prop_assert!(chunk.len() <= MAX_ENTRIES);
                prop_assert!(sizes[chunk.clone()].iter().sum::<usize>() <= MAX_BYTES);
                next = chunk.end;
            }
            prop_assert_eq!(next, sizes.len(), "nothing is lost");
            for pair in chunks.windows(2) {
                let full = pair[0].len() == MAX_ENTRIES
                    || sizes[pair[0].start..=pair[1].start].iter().sum::<usize>() > MAX_BYTES;
                prop_assert!(full, "no batch is split without need");
            }
        }
    }

    #[test]
    fn exactly_the_limits_fit_one_batch() {
        assert_eq!(chunks(&[MAX_BYTES / 2, MAX_BYTES / 2]).len(), 1);
        assert_eq!(chunks(&[MAX_BYTES / 2, MAX_BYTES / 2, 1]), [0..2, 2..3]);
        assert_eq!(chunks(&[1; 10]).len(), 1);
        assert_eq!(chunks(&[1; 11]), [0..10, 10..11]);
        assert!(chunks(&[]).is_empty());
    }
}
