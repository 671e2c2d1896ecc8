//! What an attempt may use, as a task's settings and a tenant's name it.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// Declares a section of the configuration that has every limit of an attempt among its fields.
/// Tasks and tenants have the same limits under the same names, and both refuse unknown fields,
/// which a flattened section could not.
macro_rules! with_limits {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $($(#[$own_meta:meta])* pub $own:ident: $own_type:ty,)* }
    ) => {
        $crate::limits::with_limits! { @declare
            [$(#[$meta])*] $name [$($(#[$own_meta])* pub $own: $own_type,)*]
            /// Wall time for one attempt, in milliseconds. A sender may ask for less.
            timeout_ms: NonZeroU64,
            /// Wall time after which the guest is told that it should end (`is-revoked`), in
            /// milliseconds; not before its `timeout_ms` when absent.
            soft_timeout_ms: NonZeroU64,
            /// CPU time for one attempt, in milliseconds: what the guest computes, not what it
            /// waits.
            cpu_ms: NonZeroU64,
            /// Bytes of memory for one attempt: all its memories and tables together, and what the host holds
            /// for it.
            memory_bytes: NonZeroU64,
            /// The largest output, in bytes.
            output_bytes: NonZeroU64,
            /// How much of standard output and of standard error is kept, in bytes each: a quarter
            /// from the beginning, and the others from the end.
            stdio_bytes: u64,
            /// How many lines of its output an attempt may have in the log; the rest is dropped.
            log_lines: u64,
            /// How many bytes of its output an attempt may have in the log.
            log_bytes: u64,
            /// How often an attempt may call the host.
            host_calls: NonZeroU64,
            /// Handles of the component model and host resources that live at once.
            handles: NonZeroU64,
            /// Core instances that a component is made of.
            instances: NonZeroU64,
            /// Linear memories.
            memories: NonZeroU64,
            /// Tables.
            tables: NonZeroU64,
            /// Elements of one table.
            table_elements: NonZeroU64,
            /// HTTP requests that one attempt may make.
            http_requests: u32,
            /// Bytes of all requests' bodies and headers together, and as many of all responses'.
            http_bytes: u64,
            /// How long one connection may take to stand, in milliseconds; TLS included.
            http_connect_timeout_ms: NonZeroU64,
            /// How long one request may take from its first byte to its response's last, in
            /// milliseconds.
            http_timeout_ms: NonZeroU64,
            /// Operations on key-value buckets that one attempt may make.
            keyvalue_operations: u32,
            /// Bytes that one attempt may write to its scratch directory, in all.
            scratch_bytes: u64,
            /// Files, directories and links that one attempt may make in its scratch directory.
            scratch_files: u32,
            /// Files and directories of it that one attempt may hold open at once: each is a file
            /// descriptor of the host.
            scratch_open: u32,
            /// Follow-on jobs that one attempt may send.
            dispatch_jobs: u32,
            /// How long a chain of jobs may be of which each was sent by the one before.
            dispatch_depth: u32,
            /// How many jobs may follow from one, all that follow from those included.
            dispatch_tree_jobs: u64,
            /// How many bytes the messages of all those may have together.
            dispatch_tree_bytes: u64,
        }
    };
    (@declare
        [$(#[$meta:meta])*] $name:ident [$($own:tt)*]
        $($(#[doc = $doc:literal])* $field:ident: $type:ty,)*
    ) => {
        $(#[$meta])*
        pub struct $name {
            $($own)*
            $($(#[doc = $doc])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// The limits among the fields.
            pub fn limits(&self) -> $crate::limits::LimitValues {
                $crate::limits::LimitValues { $($field: self.$field.map(u64::from),)* }
            }
        }
    };
}
pub(crate) use with_limits;

/// Every limit, as far as it is set; in the unit of the field's name.
macro_rules! values {
    ($($field:ident,)*) => {
        /// Every limit, as far as it is set, under the name and in the unit that it has in the
        /// configuration.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct LimitValues {
            $(#[allow(missing_docs, reason = "with_limits! documents each")] pub $field: Option<u64>,)*
        }

        impl LimitValues {
            /// These, and where they are silent the others.
            #[must_use]
            pub fn or(self, others: Self) -> Self {
                Self { $($field: self.$field.or(others.$field),)* }
            }
        }
    };
}
values! {
    timeout_ms, soft_timeout_ms, cpu_ms, memory_bytes, output_bytes, stdio_bytes, log_lines,
    log_bytes, host_calls, handles, instances, memories, tables, table_elements, http_requests,
    http_bytes, http_connect_timeout_ms, http_timeout_ms, keyvalue_operations, scratch_bytes,
    scratch_files, scratch_open, dispatch_jobs, dispatch_depth, dispatch_tree_jobs,
    dispatch_tree_bytes,
}

with_limits! {
    /// `[tenants.NAME.limits]`: each the most that any task has for this tenant. What is absent
    /// tightens nothing.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct TenantLimits {}
}
