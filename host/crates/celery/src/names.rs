//! Which of our tasks a task of Celery's is.

use std::collections::BTreeMap;

/// The task for a name of Celery's: what the map says of it, else its last part between dots
/// (`tasks.process_data` is `process_data`).
pub fn task<'a>(name: &'a str, explicit: &'a BTreeMap<String, String>) -> &'a str {
    match explicit.get(name) {
        Some(task) => task,
        None => name.rsplit('.').next().filter(|last| !last.is_empty()).unwrap_or(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_map_says_else_its_last_part() {
        let explicit = BTreeMap::from([("a.b.c".to_owned(), "other".to_owned())]);
        for (name, expected) in [
            ("tasks.process_data", "process_data"),
            ("process_data", "process_data"),
            ("proj.app.tasks.add", "add"),
            ("a.b.c", "other"),
            ("odd.", "odd."),
            ("", ""),
        ] {
            assert_eq!(task(name, &explicit), expected);
        }
    }
}
