//! Guests whose results are not what the contract says they are.

use super::make::{Parts, describes, guest, reallocating, runs};
use super::{Fixture, Group, Seen};

const OUT_OF_BOUNDS: Seen = Seen::Crashed("trap:other", "out of bounds");

/// `ok`, with data of that place and length.
fn returns(at: u32, length: u32) -> Vec<u8> {
    runs(&format!(
        "(i32.store (i32.const 272) (i32.const {at})) (i32.store (i32.const 276) (i32.const {length}))"
    ))
}

/// Returns from a place that is chosen instead of 256.
fn returns_from(place: &str) -> Vec<u8> {
    runs(&format!("(return (i32.const {place}))"))
}

/// `ok`, said to be JSON, with data that the WebAssembly text fills in from 4096 on.
fn json(pages: u32, length: u32, fill: &str) -> Vec<u8> {
    guest(Parts {
        memory: &format!(r#"(memory (export "memory") {pages})"#),
        items: r#"(data (i32.const 512) "application/json")"#,
        run: &format!(
            "{fill}
             (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 16))
             (i32.store (i32.const 272) (i32.const 4096))
             (i32.store (i32.const 276) (i32.const {length}))
             (return (i32.const 256))"
        ),
        ..Parts::default()
    })
}

/// A guest whose `realloc` gives that place.
fn allocates(place: &str) -> Vec<u8> {
    let realloc = reallocating(&format!("(i32.const {place})"));
    guest(Parts { realloc: &realloc, ..Parts::default() })
}

pub fn group() -> Group {
    Group {
        promise: "What a guest gives back is checked before anybody relies on it",
        fixtures: [places(), values(), documents()].into_iter().flatten().collect(),
    }
}

fn places() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "returns-from-beyond-its-memory",
            "gives a result that is not in its memory",
            OUT_OF_BOUNDS,
            || returns_from("0x7ffffff0"),
        ),
        Fixture::new(
            "returns-across-the-end",
            "gives a result whose end is not in its memory",
            OUT_OF_BOUNDS,
            || returns_from("65528"),
        ),
        Fixture::new(
            "returns-a-misaligned-result",
            "gives a result at an odd address",
            Seen::Crashed("trap:other", "not aligned"),
            || returns_from("257"),
        ),
        Fixture::new(
            "lies-about-a-place",
            "gives a list at the end of 4 GiB",
            OUT_OF_BOUNDS,
            || returns(0xffff_fff0, 8),
        ),
        Fixture::new(
            "lies-about-a-length",
            "gives a list that ends beyond its memory",
            OUT_OF_BOUNDS,
            || returns(4096, 0x0001_0000),
        ),
        Fixture::new(
            "lies-about-a-length-at-large",
            "gives a list of 2³² − 1 bytes",
            OUT_OF_BOUNDS,
            || returns(0, 0xffff_ffff),
        ),
        Fixture::new(
            "lies-so-that-it-overflows",
            "gives a list whose place and length are more than 2³² together",
            OUT_OF_BOUNDS,
            || returns(0xffff_ffff, 0xffff_ffff),
        ),
        Fixture::new(
            "describes-beyond-its-memory",
            "gives a list of 2²⁸ tasks of 64 bytes each",
            Seen::Refused("does not say which tasks it serves"),
            || {
                describes(
                    "(i32.store (i32.const 64) (i32.const 0))
                     (i32.store (i32.const 68) (i32.const 0x10000000)) (i32.const 64)",
                )
            },
        ),
        Fixture::new(
            "describes-at-an-odd-address",
            "gives a list of tasks that is not aligned",
            Seen::Refused("not aligned"),
            || {
                describes(
                    "(i32.store (i32.const 64) (i32.const 513))
                     (i32.store (i32.const 68) (i32.const 1)) (i32.const 64)",
                )
            },
        ),
        Fixture::new(
            "allocates-beyond-its-memory",
            "has the invocation written beyond its memory",
            Seen::Crashed("trap:other", "realloc return: beyond end of memory"),
            || allocates("0x7ffffff0"),
        ),
        Fixture::new(
            "allocates-at-the-end-of-everything",
            "has the invocation written to the last bytes of 4 GiB",
            Seen::Crashed("trap:other", "realloc return: beyond end of memory"),
            || allocates("-8"),
        ),
        Fixture::new(
            "allocates-at-an-odd-address",
            "has the invocation written to an odd address",
            Seen::Crashed("trap:other", "not aligned"),
            || allocates("4097"),
        ),
        Fixture::new(
            "allocates-one-place-for-all",
            "has all of the invocation written over itself",
            Seen::Done,
            || allocates("4096"),
        ),
    ]
}

fn values() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "returns-no-utf-8",
            "gives a media type that is no UTF-8",
            Seen::Crashed("trap:other", "utf-8"),
            || runs("(i32.store16 (i32.const 8) (i32.const 0xfffe))"),
        ),
        Fixture::new(
            "describes-in-no-utf-8",
            "gives a task's name that is no UTF-8",
            Seen::Refused("utf-8"),
            || {
                describes(
                    "(i32.store8 (i32.const 32) (i32.const 0xff))
                     (i32.store (i32.const 64) (i32.const 512))
                     (i32.store (i32.const 68) (i32.const 1))
                     (i32.store (i32.const 512) (i32.const 32))
                     (i32.store (i32.const 516) (i32.const 1)) (i32.const 64)",
                )
            },
        ),
        Fixture::new(
            "returns-neither-ok-nor-error",
            "gives a result that is neither of its two cases",
            Seen::Crashed("trap:other", "discriminant"),
            || runs("(i32.store8 (i32.const 256) (i32.const 2)) (return (i32.const 256))"),
        ),
        Fixture::new(
            "fails-in-no-known-way",
            "gives an error of a case that there is none of",
            Seen::Crashed("trap:other", "discriminant"),
            || {
                runs(
                    "(i32.store8 (i32.const 256) (i32.const 1))
                     (i32.store8 (i32.const 264) (i32.const 200)) (return (i32.const 256))",
                )
            },
        ),
        Fixture::new(
            "has-half-an-option",
            "gives an option that is neither there nor not",
            Seen::Crashed("trap:other", "discriminant"),
            || {
                runs(
                    "(i32.store8 (i32.const 256) (i32.const 1))
                     (i32.store8 (i32.const 264) (i32.const 2))
                     (i32.store8 (i32.const 288) (i32.const 3)) (return (i32.const 256))",
                )
            },
        ),
        Fixture::new(
            "exits-in-no-known-way",
            "passes the host a case that there is none of",
            Seen::Crashed("trap:other", "discriminant"),
            || super::traps::exits(7),
        ),
        Fixture::new(
            "snoozes-for-ever",
            "asks to be put back for 2⁶⁴ milliseconds, and is for a year at most",
            Seen::Snoozed,
            || {
                runs(
                    "(i32.store8 (i32.const 256) (i32.const 1))
                     (i32.store8 (i32.const 264) (i32.const 1))
                     (i64.store (i32.const 272) (i64.const -1)) (return (i32.const 256))",
                )
            },
        ),
    ]
}

fn documents() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "lies-about-json",
            "gives what is no JSON as JSON",
            Seen::Failed("invalid_output", "is not one JSON value"),
            || json(1, 4, "(i32.store (i32.const 4096) (i32.const 0x7d7b5d7b))"),
        ),
        Fixture::new(
            "lies-about-utf-8-in-json",
            "gives a JSON text that is no UTF-8",
            Seen::Failed("invalid_output", "is not one JSON value"),
            || json(1, 3, "(i32.store (i32.const 4096) (i32.const 0x22ff22))"),
        ),
        Fixture::new(
            "nests-json-deeply",
            "gives a JSON value of 100,000 levels",
            Seen::Done,
            || {
                json(
                    4,
                    200_000,
                    "(memory.fill (i32.const 4096) (i32.const 91) (i32.const 100000))
                     (memory.fill (i32.const 104096) (i32.const 93) (i32.const 100000))",
                )
            },
        ),
        Fixture::new(
            "nests-json-without-end",
            "gives a JSON value that opens 200,000 levels and closes none",
            Seen::Failed("invalid_output", "EOF while parsing a list"),
            || json(4, 200_000, "(memory.fill (i32.const 4096) (i32.const 91) (i32.const 200000))"),
        ),
        Fixture::new(
            "gives-a-huge-number",
            "gives a JSON number of 200,000 digits",
            Seen::Done,
            || json(4, 200_000, "(memory.fill (i32.const 4096) (i32.const 57) (i32.const 200000))"),
        ),
    ]
}
