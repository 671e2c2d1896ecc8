//! A component that is no task: it exports something else.
#![cfg(target_family = "wasm")]
#![allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]

wit_bindgen::generate!({ path: "wit", world: "stranger" });

struct Stranger;

struct Visitor;

impl exports::greeting::GuestVisitor for Visitor {
    fn new() -> Self {
        Self
    }

    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

impl exports::greeting::Guest for Stranger {
    type Visitor = Visitor;
}

export!(Stranger);
