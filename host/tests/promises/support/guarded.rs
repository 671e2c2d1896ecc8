//! Servers of a test: ended with the test binary, however that ends.

use std::{
    io,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// Runs a program until standard input ends, which it does when the test binary is gone.
const GUARD: &str = r#"
"$@" </dev/null &
child=$!
cat >/dev/null
kill -TERM "$child" 2>/dev/null
wait "$child"
"#;

/// Starts a program; it ends when the guard's standard input is dropped.
pub fn guarded(command: &[&str]) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", GUARD, "guard"])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// A port that nobody listens on, now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
