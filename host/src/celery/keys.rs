//! What results, groups and chords are called in a store, as Celery's key-value backends name them.
//!
//! A store's `global_keyprefix` stands before all of them: see [`prefix`].

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_celery() {
        assert_eq!(task("i"), "celery-task-meta-i");
        assert_eq!(chord_size("g"), format!("{}.s", group("g")));
        assert_eq!([prefix(""), prefix("a"), prefix("a:")], ["", "a_", "a:"]);
    }
}
