//! What all attempts share of the world outside: clients and stores that grants lead to.

/// What stands behind the capabilities that guests are granted. Made once a process.
#[derive(Debug, Default)]
pub struct Services {}
