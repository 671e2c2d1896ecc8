//! What results, groups and chords are called in a store, as Celery's key-value backends name them.
//!
//! A store's `global_keyprefix` stands before all of them.

/// The key of a task's result; on Redis also the channel that it is published on.
pub fn task(id: &str) -> String {
    format!("celery-task-meta-{id}")
}

/// The key of a group's results, as ids.
pub fn group(id: &str) -> String {
    format!("celery-taskset-meta-{id}")
}

/// The key of a chord's counter, for stores that count (DynamoDB).
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
