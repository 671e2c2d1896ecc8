//! Goes once through the first draft of the key-value interfaces, for tests: components of other
//! hosts are built for it. The payload is the bucket's name.

use lovage_task::{TaskError, Value, json, task};

/// The interfaces of `wasi:keyvalue` as Rust.
#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../host/crates/sandbox/wit/keyvalue-draft",
        world: "imports",
        generate_all,
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store};

/// Sets, counts, lists and deletes.
#[task]
fn buckets_draft(name: String) -> Result<Value, TaskError> {
    let failed = |error: store::Error| TaskError::fail("keyvalue", format!("{error:?}"));
    let bucket = store::open(&name).map_err(failed)?;
    bucket.set("a", b"1").map_err(failed)?;
    let sum = atomics::increment(&bucket, "a", 41).map_err(failed)?;
    batch::set_many(&bucket, &[("b".to_owned(), b"2".to_vec())]).map_err(failed)?;
    let found = batch::get_many(&bucket, &["b".to_owned(), "c".to_owned()]).map_err(failed)?;
    let page = bucket.list_keys(None).map_err(failed)?;
    bucket.delete("a").map_err(failed)?;
    let there = bucket.exists("a").map_err(failed)?;
    let value = bucket.get("b").map_err(failed)?;
    batch::delete_many(&bucket, &["b".to_owned()]).map_err(failed)?;
    Ok(json!({
        "sum": sum,
        "found": found,
        "keys": page.keys,
        "next": page.cursor,
        "there": there,
        "value": value,
    }))
}

lovage_task::export!(buckets_draft);
