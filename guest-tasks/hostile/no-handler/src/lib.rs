//! A component that is no task: it exports something else.
#![cfg(target_family = "wasm")]
#![allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]

wit_bindgen::generate!({ path: "wit", world: "stranger" });

struct Stranger;

impl exports::greeting::Guest for Stranger {
    fn hello() -> String {
        "hello".to_owned()
    }
}

export!(Stranger);
