//! What it means when a guest does not return.
//!
//! A trap says little: a guest that panicked, that was refused memory, or that met a bug all reach
//! the same `unreachable`. The limiter's notes and the tail of standard error tell them apart. A
//! guest may have coped with a refusal, so that counts only where the end looks like one.

use std::fmt::Write as _;

use wasmtime::component::ResourceTableError;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::failure;
use super::limits::{Limit, Limits, Refusal};
use super::state::State;
use super::stdio::Tail;
use lovage_core::byte_size::ByteSize;
use lovage_core::outcome::{Failure, Outcome};

/// The outcome of an attempt that ended with an error.
pub(super) fn outcome(error: &wasmtime::Error, state: &State, limits: &Limits) -> Outcome {
    let failure = failure(error, state, limits);
    if let Some(fault) = host_fault(error, state) {
        return Outcome::HostFault(Failure {
            kind: "host_fault".to_owned(),
            message: fault,
            ..failure
        });
    }
    match failure.kind.as_str() {
        // It would be as large at the next attempt.
        "output_too_large" => Outcome::Failed(failure),
        _ => Outcome::Crashed(failure),
    }
}

/// The reason where the host had nothing to give to the guest, rather than the guest no right to it:
/// the system refused memory, address space, a thread or a file. Errors of the system have types of
/// their own, and errors of a guest never have those.
fn host_fault(error: &wasmtime::Error, state: &State) -> Option<String> {
    let system = |it: &(dyn std::error::Error + 'static)| {
        it.is::<std::io::Error>() || it.is::<rustix::io::Errno>()
    };
    if error.chain().any(system) {
        return Some(format!("the host could not carry the attempt out: {error:#}"));
    }
    let refused = state.limiter.host_fault()?;
    may_be_of_a_refusal(error).then(|| format!("the host had no memory for the guest: {refused}"))
}

/// Why a call into a guest ended with an error, with the tails of its output.
pub(super) fn failure(error: &wasmtime::Error, state: &State, limits: &Limits) -> Failure {
    let (stdout, stderr) = (state.stdout.peek(), state.stderr.peek());
    let refused = state.limiter.refused();
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let refusal = |limit, allowed: usize| Refusal { limit, asked: 0, allowed: allowed as u64 };
    let told = |refusal: Refusal| (refusal.limit.kind().to_owned(), refusal.to_string());
    let (kind, message) = if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let code = exit.0;
        ("exit".to_owned(), format!("exited with code {code} instead of returning"))
    } else if let Some(refusal) = error.downcast_ref::<Refusal>() {
        told(*refusal)
    } else if is_hostcall_fuel(error) {
        // Lifting a result happens outside of the guest, so that no frame of it is there.
        if backtrace.is_none() {
            ("output_too_large".to_owned(), too_large(None, limits.output_bytes))
        } else {
            told(refusal(Limit::HostCallBytes, limits.hostcall_bytes()))
        }
    } else if is_handle_limit(error) {
        told(refusal(Limit::Handles, limits.handles))
    } else if let Some(limit) = count_limit(error) {
        told(refusal(
            limit,
            match limit {
                Limit::Memories => limits.memories,
                Limit::Tables => limits.tables,
                _ => limits.instances,
            },
        ))
    } else if let Some(message) = panic_message(&stderr.kept()) {
        ("panic".to_owned(), message)
    } else if let Some(refusal) = refused.filter(|_| may_be_of_a_refusal(error)) {
        told(refusal)
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        describe_trap(*trap)
    } else {
        ("trap:other".to_owned(), error.root_cause().to_string())
    };
    let mut detail =
        refused.filter(|refusal| refusal.limit.kind() != kind).map_or_else(String::new, before);
    detail.push_str(&state.notes.text());
    detail.push_str(&tails(&stdout, &stderr));
    if let Some(backtrace) = backtrace {
        // Writing to a string cannot fail.
        let _ = write!(detail, "backtrace:\n{backtrace}");
    }
    failure::fit(Failure::new(kind, message).with_detail(detail))
}

/// What is worth knowing beside another reason: the guest may not have coped as well as it thought.
fn before(refusal: Refusal) -> String {
    format!("before that it was refused memory: {refusal}\n")
}

/// The most bytes of either tail in a failure's detail: both, and a backtrace, have room there.
const TAIL_BYTES: usize = failure::DETAIL_BYTES * 3 / 8;

/// The ends of what a guest wrote, for a failure's detail; bounded, and fit to be shown.
pub(super) fn tails(stdout: &Tail, stderr: &Tail) -> String {
    let mut detail = String::new();
    for (name, tail) in [("standard error", stderr), ("standard output", stdout)] {
        let text = tail.ends(TAIL_BYTES);
        if !text.is_empty() {
            let newline = if text.ends_with('\n') { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = write!(detail, "{name}:\n{text}{newline}");
        }
    }
    detail
}

/// How an output that is too large is told.
pub(super) fn too_large(size: Option<usize>, allowed: usize) -> String {
    let allowed = ByteSize(allowed as u64);
    let hint = Limit::Output.hint();
    match size {
        Some(size) => {
            format!("the output has {}, and {allowed} are allowed{hint}", ByteSize(size as u64))
        }
        None => format!("the output has more than twice the {allowed} that are allowed{hint}"),
    }
}

/// wasmtime's error for it is private, so its text has to do; a test holds it to that.
fn is_hostcall_fuel(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// Handles are counted in two places, of which one has a type for its error.
fn is_handle_limit(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(ResourceTableError::Full))
        || error.root_cause().to_string().contains("store handle limit exceeded")
}

/// Of what a component has too many to be instantiated, if that is why it was not. The error has
/// no type; tests hold wasmtime to the words.
pub(super) fn count_limit(error: &wasmtime::Error) -> Option<Limit> {
    let reason = error.root_cause().to_string();
    let what = reason.strip_prefix("resource limit exceeded: ")?;
    [
        ("instance count", Limit::Instances),
        ("memory count", Limit::Memories),
        ("table count", Limit::Tables),
    ]
    .into_iter()
    .find_map(|(words, limit)| what.starts_with(words).then_some(limit))
}

/// Whether an error is one that a guest comes to whose memory was refused: it aborts, it writes to
/// where it has none, or it never began.
fn may_be_of_a_refusal(error: &wasmtime::Error) -> bool {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return matches!(trap, Trap::UnreachableCodeReached | Trap::MemoryOutOfBounds);
    }
    // wasmtime has no type for it; a test holds it to these words.
    let reason = error.root_cause().to_string();
    reason.contains("exceeds memory limits") || reason.contains("exceeds table limits")
}

/// What the panic hook of the Rust SDK writes: `lovage: panic: MESSAGE (at FILE:LINE)`, one line
/// whatever the message is. The last one counts, since a panic ends the guest.
fn panic_message(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().find_map(|line| line.strip_prefix("lovage: panic: "))?;
    Some(line.to_owned())
}

fn describe_trap(trap: Trap) -> (String, String) {
    let kind = match trap {
        Trap::StackOverflow => "stack_overflow",
        Trap::MemoryOutOfBounds => "memory_out_of_bounds",
        Trap::TableOutOfBounds => "table_out_of_bounds",
        Trap::IndirectCallToNull => "indirect_call_to_null",
        Trap::BadSignature => "bad_signature",
        Trap::IntegerOverflow => "integer_overflow",
        Trap::IntegerDivisionByZero => "integer_division_by_zero",
        Trap::BadConversionToInteger => "bad_conversion_to_integer",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::AsyncDeadlock => "async_deadlock",
        Trap::CannotEnterComponent => "cannot_enter_component",
        Trap::CannotBlockSyncTask => "cannot_block",
        Trap::NoAsyncResult => "no_async_result",
        _ => "other",
    };
    let said = trap.to_string();
    let said = said.strip_prefix("wasm trap: ").unwrap_or(&said);
    // Guests keep much of their stack in linear memory, and when that ends they just write
    // outside of it: `StackOverflow` is not what one sees.
    let hint = match trap {
        Trap::MemoryOutOfBounds => "; often this is a stack that was too small for a recursion",
        Trap::UnreachableCodeReached => "; guests abort like this, see the detail",
        Trap::CannotBlockSyncTask => {
            "; the contract's `run` is not async, and so cannot wait for the async functions of \
             WASI 0.3: use those of WASI 0.2"
        }
        _ => "",
    };
    (format!("trap:{kind}"), format!("trapped: {said}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_panic_is_found_among_other_lines() {
        let stderr = b"hello\nlovage: panic: first (at a.rs:1)\nnoise\nlovage: panic: second\\nline (at b.rs:2)\nmore\n";
        assert_eq!(panic_message(stderr).as_deref(), Some("second\\nline (at b.rs:2)"));
        assert_eq!(panic_message(b"a lovage: panic: x"), None);
        assert_eq!(panic_message(b""), None);
    }

    #[test]
    fn both_tails_have_room_in_a_detail_beside_a_backtrace() {
        let tail =
            |byte: u8| Tail { first: Vec::new(), bytes: vec![byte; 1 << 20], total: 1 << 20 };
        let all = tails(&tail(b'o'), &tail(0x1b));
        assert!(all.len() < failure::DETAIL_BYTES * 7 / 8, "{}", all.len());
        assert_eq!(all.matches("[what was between is left out]").count(), 2);
        assert!(all.starts_with("standard error:\n") && all.contains("\nstandard output:\n"));
        assert!(!all.contains('\u{1b}'));
        let few = Tail { first: b"few".to_vec(), bytes: Vec::new(), total: 3 };
        assert_eq!(tails(&Tail::default(), &few), "standard error:\nfew\n");
        assert_eq!(tails(&few, &Tail::default()), "standard output:\nfew\n");
    }
}
