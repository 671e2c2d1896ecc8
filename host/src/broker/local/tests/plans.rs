//! Every statement that runs while jobs flow finds its rows by an index.

use super::{super::sql, database};

fn plan(connection: &rusqlite::Connection, statement: &str) -> Vec<String> {
    let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    // A plan needs no values.
    let mut rows = explain.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}

#[test]
fn no_hot_statement_scans_or_sorts() {
    let (_directory, connection) = database();
    for statement in sql::HOT {
        for step in plan(&connection, statement) {
            assert!(!step.contains("SCAN"), "{step}: {statement}");
            assert!(!step.contains("TEMP B-TREE"), "{step}: {statement}");
            let by_index = step.contains("USING INDEX")
                || step.contains("USING COVERING INDEX")
                || step.contains("USING INTEGER PRIMARY KEY");
            assert!(by_index, "{step}: {statement}");
        }
    }
}

#[test]
fn picking_up_walks_the_index_of_what_is_due() {
    let (_directory, connection) = database();
    let due = "SEARCH messages USING INDEX messages_due (queue=? AND visible_at<?)";
    assert_eq!(plan(&connection, sql::PICK_UP), [due]);
    let head = "SEARCH messages USING INDEX messages_group (queue=? AND group_name=?)";
    assert_eq!(plan(&connection, sql::GROUP_HEAD), [head]);
    for count in [sql::COUNT_READY, sql::COUNT_BEHIND, sql::COUNT_HIDDEN] {
        for step in plan(&connection, count) {
            assert!(step.contains("COVERING INDEX messages_due"), "{step}");
        }
    }
}

#[test]
fn a_commit_is_on_the_disk_before_it_is_answered() {
    let (_directory, connection) = database();
    let read = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let (mode, full): (rusqlite::types::Value, _) =
        (read("journal_mode").unwrap(), read("synchronous").unwrap());
    assert_eq!(mode, "wal".to_owned().into());
    assert_eq!(full, 2.into());
}
