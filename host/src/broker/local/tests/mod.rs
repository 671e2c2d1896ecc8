//! What the broker promises of its inside.
