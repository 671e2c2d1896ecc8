//! Every statement that runs while jobs flow finds its rows by an index.

use super::{
    super::{schema, sql},
    database,
};

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
    for (statement, index, by) in [
        (sql::PICK_UP, "INDEX messages_due", "queue=? AND visible_at<?"),
        (sql::ANY_ALONE, "COVERING INDEX messages_due", "queue=? AND visible_at<?"),
        (sql::NEXT_VISIBLE, "COVERING INDEX messages_due", "queue=? AND visible_at>?"),
        (sql::ANY_SHARED, "COVERING INDEX messages_shared", "queue=? AND visible_at<?"),
        (sql::NEXT_VISIBLE_SHARED, "COVERING INDEX messages_shared", "queue=? AND visible_at>?"),
        (sql::PICK_UP_SHARED, "INDEX messages_shared", "queue=? AND visible_at<?"),
        (sql::NEXT_GROUP, "COVERING INDEX messages_turns", "queue=? AND group_name>?"),
        (
            sql::PICK_UP_OF_GROUP,
            "INDEX messages_turns",
            "queue=? AND group_name=? AND visible_at<?",
        ),
    ] {
        let expected = format!("SEARCH messages USING {index} ({by})");
        assert_eq!(plan(&connection, statement), [expected]);
    }
    let head = "SEARCH messages USING INDEX messages_group (queue=? AND group_name=?)";
    assert_eq!(plan(&connection, sql::GROUP_HEAD), [head]);
    for (counts, index) in [
        (&[sql::COUNT_READY, sql::COUNT_BEHIND, sql::COUNT_HIDDEN][..], "messages_due"),
        (&[sql::COUNT_READY_SHARED, sql::COUNT_HIDDEN_SHARED], "messages_shared"),
    ] {
        for step in counts.iter().flat_map(|count| plan(&connection, count)) {
            assert!(step.contains(&format!("COVERING INDEX {index}")), "{step}");
        }
    }
}

#[test]
fn what_is_copied_back_is_on_the_disk_before_its_place_in_the_log_is_used_again() {
    let (directory, writer) = database();
    let keeper = schema::open_keeper(&directory.path().join("broker.db")).unwrap();
    for connection in [&writer, &keeper] {
        let read = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
        let (mode, synchronous): (rusqlite::types::Value, _) =
            (read("journal_mode").unwrap(), read("synchronous").unwrap());
        assert_eq!(mode, "wal".to_owned().into());
        // NORMAL; commits are flushed by whoever tells of them.
        assert_eq!(synchronous, 1.into());
    }
}
