//! Does with key-value buckets whatever its payload says, and gives back what came of each step.
//! Tests tell it to behave, or not to.

use lovage_task::{Value, json, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// The interfaces of `wasi:keyvalue` as Rust.
#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../host/crates/sandbox/wit/keyvalue-draft2",
        world: "imports",
        generate_all,
    });
}

use bindings::wasi::keyvalue::{
    atomics::{self, Cas, CasError},
    batch,
    store::{self, Bucket, Error},
};

/// One step. Values are texts.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Opens a bucket, which the next steps are about.
    Open(String),
    Get(String),
    Set(String, String),
    /// Sets a value of so many bytes.
    SetBytes(String, usize),
    /// Sets so many keys, one by one, with values of so many bytes each; how many were set.
    Fill(usize, usize),
    /// Asks for a value so often; how often it was had.
    GetTimes(String, u64),
    Delete(String),
    Exists(String),
    /// All keys, page by page: how many pages and keys there are.
    List,
    /// One page.
    ListKeys(Option<String>),
    Increment(String, i64),
    GetMany(Vec<String>),
    SetMany(Vec<(String, String)>),
    DeleteMany(Vec<String>),
    /// Adds to a number by compare-and-swap so often, and again where another was first.
    Add(String, u64),
    /// Looks at a key, sets it by another way, and swaps.
    SwapLate(String, String),
    /// Opens the bucket so often, and keeps every handle.
    Hoard(String, usize),
    /// Looks at a key so often, and keeps every handle.
    HoardCas(String, usize),
}

/// Does one step after another.
#[task]
fn buckets(steps: Vec<Step>) -> Vec<Value> {
    let mut bucket = None;
    steps.into_iter().map(|step| run(step, &mut bucket)).collect()
}

fn run(step: Step, bucket: &mut Option<Bucket>) -> Value {
    if let Step::Open(name) = step {
        return match store::open(&name) {
            Ok(opened) => {
                *bucket = Some(opened);
                json!("opened")
            }
            Err(error) => refused(error),
        };
    }
    if let Step::Hoard(name, count) = step {
        let all: Result<Vec<_>, _> = (0..count).map(|_| store::open(&name)).collect();
        return all.map_or_else(refused, |all| json!(all.len()));
    }
    let Some(bucket) = bucket else { return json!("no bucket is open") };
    act(step, bucket).unwrap_or_else(refused)
}

fn text(value: Option<Vec<u8>>) -> Value {
    value.map_or(Value::Null, |bytes| json!(String::from_utf8_lossy(&bytes)))
}

fn act(step: Step, bucket: &Bucket) -> Result<Value, Error> {
    Ok(match step {
        Step::Open(_) | Step::Hoard(..) => Value::Null,
        Step::Get(key) => text(bucket.get(&key)?),
        Step::Set(key, value) => json!(bucket.set(&key, value.as_bytes())?),
        Step::SetBytes(key, bytes) => json!(bucket.set(&key, &vec![b'x'; bytes])?),
        Step::Fill(keys, bytes) => {
            let value = vec![b'x'; bytes];
            for n in 0..keys {
                if let Err(error) = bucket.set(&format!("key-{n}"), &value) {
                    return Ok(json!({"set": n, "refused": refused(error)}));
                }
            }
            json!({"set": keys})
        }
        Step::GetTimes(key, times) => {
            for n in 0..times {
                if let Err(error) = bucket.get(&key) {
                    return Ok(json!({"had": n, "refused": refused(error)}));
                }
            }
            json!({"had": times})
        }
        Step::Delete(key) => json!(bucket.delete(&key)?),
        Step::Exists(key) => json!(bucket.exists(&key)?),
        Step::List => {
            let (mut pages, mut keys, mut cursor) = (0, 0, None);
            loop {
                let page = bucket.list_keys(cursor.as_deref())?;
                pages += 1;
                keys += page.keys.len();
                cursor = page.cursor;
                if cursor.is_none() {
                    break json!({"pages": pages, "keys": keys});
                }
            }
        }
        Step::ListKeys(cursor) => json!(bucket.list_keys(cursor.as_deref())?.keys),
        Step::Increment(key, delta) => json!(atomics::increment(bucket, &key, delta)?),
        Step::GetMany(keys) => {
            let values = batch::get_many(bucket, &keys)?.into_iter();
            values.map(|found| text(found.map(|(_, value)| value))).collect()
        }
        Step::SetMany(entries) => {
            let entries: Vec<_> =
                entries.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();
            json!(batch::set_many(bucket, &entries)?)
        }
        Step::DeleteMany(keys) => json!(batch::delete_many(bucket, &keys)?),
        Step::Add(key, times) => {
            for _ in 0..times {
                add(bucket, &key)?;
            }
            Value::Null
        }
        Step::SwapLate(key, value) => {
            let cas = Cas::new(bucket, &key)?;
            bucket.set(&key, b"another was first")?;
            match atomics::swap(cas, value.as_bytes()) {
                Ok(()) => json!("swapped"),
                Err(CasError::StoreError(error)) => refused(error),
                Err(CasError::CasFailed(again)) => {
                    let seen = text(again.current()?);
                    let swapped = atomics::swap(again, value.as_bytes()).is_ok();
                    json!({"late": seen, "then": swapped})
                }
            }
        }
        Step::HoardCas(key, count) => {
            let all: Result<Vec<_>, _> = (0..count).map(|_| Cas::new(bucket, &key)).collect();
            json!(all?.len())
        }
    })
}

/// Adds 1 to a number, until nobody else is first.
fn add(bucket: &Bucket, key: &str) -> Result<(), Error> {
    let mut cas = Cas::new(bucket, key)?;
    loop {
        let value = cas.current()?.unwrap_or_else(|| b"0".to_vec());
        let number: u64 = String::from_utf8_lossy(&value).parse().unwrap_or_default();
        match atomics::swap(cas, (number + 1).to_string().as_bytes()) {
            Ok(()) => return Ok(()),
            Err(CasError::StoreError(error)) => return Err(error),
            Err(CasError::CasFailed(again)) => cas = again,
        }
    }
}

fn refused(error: Error) -> Value {
    match error {
        Error::NoSuchStore => json!({"error": "no-such-store"}),
        Error::AccessDenied => json!({"error": "access-denied"}),
        Error::Other(why) => json!({"error": why}),
    }
}

lovage_task::export!(buckets);
