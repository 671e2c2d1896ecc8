//! What results, groups and chords are called in a store, as Celery's key-value backends name them.
//!
//! A store's `global_keyprefix` stands before all of them: see [`prefix`].

/// The place of the tenant's name in a prefix, with the separator that ends it. The name is encoded
/// without colons, so no two tenants share a prefix, whatever their names.
const TENANT: &str = "{tenant}:";

/// Stands before every key of a store: the same for all, or one for each tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Before the tenant's name, or the whole prefix where it has none.
    head: String,
    /// After the tenant's name; `None` where all tenants share the keys.
    tail: Option<String>,
}

impl Prefix {
    /// Reads `celery.result_key_prefix`. `Err` says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((head, tail)) = text.split_once(TENANT) {
            let tail = if tail.is_empty() { String::new() } else { prefix(tail) };
            if !head.contains(['{', '}']) && !tail.contains(['{', '}']) {
                return Ok(Self { head: head.to_owned(), tail: Some(tail) });
            }
        } else if !text.contains("{tenant}") {
            return Ok(Self { head: prefix(text), tail: None });
        }
        Err("it names the tenant as `{tenant}:`, once and with the colon".to_owned())
    }

    /// Returns true if each tenant has keys of its own.
    pub fn is_by_tenant(&self) -> bool {
        self.tail.is_some()
    }

    /// A tenant's key.
    pub fn key(&self, tenant: &str, key: &str) -> String {
        let Self { head, tail } = self;
        match tail {
            None => format!("{head}{key}"),
            Some(tail) => format!("{head}{}:{tail}{key}", encoded(tenant)),
        }
    }
}

/// A tenant's name with all but letters, digits, `_`, `-` and `.` as `%` and two hexadecimal digits.
pub fn encoded(tenant: &str) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(tenant.len());
    for byte in tenant.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-.".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// The key of a revocation: Celery has none, as its workers tell each other by broadcasts, which SQS
/// has not. Without a tenant the id is revoked for all of them.
pub fn revoked(tenant: Option<&str>, task: &str) -> String {
    match tenant {
        None => format!("lovage-revoked-{task}"),
        Some(tenant) => format!("lovage-revocation-{}:{task}", encoded(tenant)),
    }
}

/// What stands before every key where the store has a `global_keyprefix`: Celery sets an underscore
/// after one that does not end in a separator.
pub fn prefix(global: &str) -> String {
    match global.chars().last() {
        None | Some(':' | '_' | '-' | '.') => global.to_owned(),
        Some(_) => format!("{global}_"),
    }
}

/// The key of a task's result; on Redis also the channel that it is published on.
pub fn task(id: &str) -> String {
    format!("celery-task-meta-{id}")
}

/// The key of a group's results, as ids.
pub fn group(id: &str) -> String {
    format!("celery-taskset-meta-{id}")
}

/// The key of a chord's counter, for stores that count (`DynamoDB`).
pub fn chord_counter(group: &str) -> String {
    format!("chord-unlock-{group}")
}

/// Redis: the key of the results that a chord's header has so far: a sorted set by place, of
/// [`chord_part`](super::meta::chord_part).
pub fn chord_results(group: &str) -> String {
    format!("celery-taskset-meta-{group}.j")
}

/// Redis: the key of how many results more than was known at first a chord waits for.
pub fn chord_added(group: &str) -> String {
    format!("celery-taskset-meta-{group}.t")
}

/// Redis: the key of how many results a chord waits for.
pub fn chord_size(group: &str) -> String {
    format!("celery-taskset-meta-{group}.s")
}

/// Redis, from Celery 5.7: the key of the set of `ID:PLACE` that are counted already.
pub fn chord_counted(group: &str) -> String {
    format!("celery-taskset-meta-{group}.d")
}

/// Redis, from Celery 5.7: the key of who may send a chord's body, or `done`.
pub fn chord_claim(group: &str) -> String {
    format!("celery-taskset-meta-{group}.c")
}

/// Redis: the key of the tenant that a chord belongs to. Celery's clients do not know it.
pub fn chord_owner(group: &str) -> String {
    format!("celery-taskset-meta-{group}.lovage-tenant")
}

/// Returns true if a group's id makes its key that of a part of another chord: `a.s` is the group
/// `a.s`, and the size of the chord `a`. Celery's own ids are UUIDs.
pub fn is_ambiguous(group: &str) -> bool {
    [".j", ".t", ".s", ".d", ".c", ".lovage-tenant"].iter().any(|end| group.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tenants_share_a_key() {
        assert_eq!(Prefix::parse("a").unwrap().key("acme", "k"), "a_k");
        let prefix = Prefix::parse("app:{tenant}:").unwrap();
        assert_eq!(prefix.key("acme", "k"), "app:acme:k");
        assert_eq!(prefix.key("", "k"), "app::k");
        let names = ["", "a", "a:b", "b", "%3a", "a:", ":", "ä", "a{b}", "a\n"];
        for key in ["k", "b:k"] {
            let keys: std::collections::BTreeSet<_> =
                names.iter().map(|tenant| prefix.key(tenant, key)).collect();
            assert_eq!(keys.len(), names.len());
        }
        for wrong in ["{tenant}", "a{tenant}b", "{tenant}:{tenant}:", "{x}{tenant}:"] {
            assert!(Prefix::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_revocation_is_for_one_tenant_or_for_all() {
        let keys = [revoked(None, "a:b"), revoked(Some("a"), "b"), revoked(Some(""), "a:b")];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{keys:?}");
    }

    #[test]
    fn keys_are_those_of_celery() {
        assert_eq!(task("i"), "celery-task-meta-i");
        assert_eq!(chord_size("g"), format!("{}.s", group("g")));
        assert_eq!([prefix(""), prefix("a"), prefix("a:")], ["", "a_", "a:"]);
    }
}
