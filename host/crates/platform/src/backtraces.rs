//! Errors without the host's own stack in them.

/// The variable by which Rust's standard library decides for errors; for panics it asks
/// `RUST_BACKTRACE` alone.
const VARIABLE: &str = "RUST_LIB_BACKTRACE";

/// Leaves out what nobody reads: with `RUST_BACKTRACE` set, as it often is where programs run,
/// each error would hold a copy of the host's stack, and wasmtime makes errors even where nothing
/// is wrong: a third of the CPU time of a quick attempt. Panics tell their stack as ever, and
/// whoever sets `RUST_LIB_BACKTRACE` gets what it says.
///
/// To be called first of all in `main`.
#[allow(unsafe_code)]
pub fn leave_out() {
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: nothing else runs yet that could read the environment meanwhile.
        unsafe { std::env::set_var(VARIABLE, "0") };
    }
}
