//! Message groups and deduplication ids: one function makes a tenant's group, one recognises it.
//!
//! SQS takes 1 to 128 letters, digits and ASCII punctuation. Anything else travels as a digest. Both
//! brokers get the same text, so that a job's group means the same on either.

use sha2::{Digest as _, Sha256};

/// The prefix of a digest.
const DIGEST: &str = "sha256-";

/// The longest group or deduplication id that SQS takes, in bytes.
const MAX_BYTES: usize = 128;

/// The message group of a tenant on a queue that is not FIFO.
///
/// A name that looks like a digest is digested, too: no tenant can have the group of another one by
/// its name.
pub fn of_tenant(tenant: &str) -> String {
    if fits(tenant) && !tenant.starts_with(DIGEST) {
        return tenant.to_owned();
    }
    digest(&[tenant.as_bytes()])
}

/// Returns true if a message group is that of a tenant: its name, or what stands for its name.
pub fn is_of_tenant(group: &str, tenant: &str) -> bool {
    group == tenant || (group.starts_with(DIGEST) && group == of_tenant(tenant))
}

/// A group or deduplication id as SQS takes it: the text where it fits, else its digest. Applied
/// twice it gives the same.
pub fn identifier(text: &str) -> String {
    if fits(text) { text.to_owned() } else { digest(&[text.as_bytes()]) }
}

/// An id that no other tenant can make: deduplication and the order of a FIFO queue hold for all of
/// a queue, and tenants may share it.
pub fn scoped(tenant: &str, id: &str) -> String {
    if tenant.is_empty() {
        return identifier(id);
    }
    digest(&[tenant.as_bytes(), id.as_bytes()])
}

/// `sha256-` and the digest of the parts, each separated from the next by its length.
pub fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = String::from(DIGEST);
    for byte in hash.finalize() {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

fn fits(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_sqs_takes_are_their_own_groups() {
        assert_eq!(of_tenant("acme"), "acme");
        assert_eq!(identifier("a/b:c"), "a/b:c");
        for odd in ["Müller GmbH", "with space", "", &"x".repeat(129)] {
            assert_eq!(of_tenant(odd).len(), 71, "{odd}");
        }
    }

    #[test]
    fn a_tenant_named_like_a_digest_does_not_get_the_group_of_another() {
        let victim = of_tenant("Müller GmbH");
        assert_ne!(of_tenant(&victim), victim);
        assert!(!is_of_tenant(&of_tenant(&victim), "Müller GmbH"));
    }

    #[test]
    fn the_parts_of_a_digest_do_not_run_together() {
        assert_ne!(scoped("a", "bc"), scoped("ab", "c"));
        assert_eq!(scoped("", "id"), "id");
    }

    proptest! {
        #[test]
        fn every_tenant_has_a_group_that_sqs_takes_and_that_is_recognised(tenant in "\\PC{1,200}") {
            let group = of_tenant(&tenant);
            prop_assert!(fits(&group));
            prop_assert!(is_of_tenant(&group, &tenant));
            prop_assert_eq!(identifier(&group), group.clone());
            // On its way through SQS a group is made fit once more.
            prop_assert!(is_of_tenant(&identifier(&group), &tenant));
        }

        #[test]
        fn no_tenant_has_the_group_of_another(one in "\\PC{1,140}", other in "\\PC{1,140}") {
            prop_assume!(one != other);
            prop_assert_ne!(of_tenant(&one), of_tenant(&other));
            prop_assert!(!is_of_tenant(&of_tenant(&one), &other));
        }

        #[test]
        fn ids_of_a_tenant_are_its_own(one in "[ab ]{1,9}", other in "[ab ]{1,9}", id in "[ab ]{1,9}") {
            prop_assume!(one != other);
            prop_assert_ne!(scoped(&one, &id), scoped(&other, &id));
        }
    }
}
