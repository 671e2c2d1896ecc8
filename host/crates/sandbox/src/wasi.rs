//! What a guest has of WASI: clocks, random numbers, its output, and nothing else; with a directory
//! where that is granted.
//!
//! It is made when the guest first asks for anything of it. Most never do, and to begin two
//! generators of random numbers costs more than the rest of a small guest's store.

use wasmtime_wasi::{FsPerms, WasiCtx};

use super::deterministic;
use super::limits::RANDOM_BYTES;
use super::scratch;
use super::stdio::Stream;
use lovage_core::job::Job;
use lovage_policy::Grants;

/// The context of WASI of one attempt.
#[derive(Default)]
pub(super) struct Wasi(Option<Box<WasiCtx>>);

impl Wasi {
    /// Makes it now, with a directory.
    pub(super) fn with_directory(
        path: &std::path::Path,
        streams: (&Stream, &Stream),
        grants: &Grants,
        job: Option<&Job>,
    ) -> wasmtime::Result<Self> {
        let mut builder = builder(streams, grants, job);
        builder.preopened_dir(path, scratch::PATH, FsPerms::ReadWrite)?;
        Ok(Self(Some(Box::new(builder.build()))))
    }

    /// The context.
    pub(super) fn get(
        &mut self,
        streams: (&Stream, &Stream),
        grants: &Grants,
        job: Option<&Job>,
    ) -> &mut WasiCtx {
        self.0.get_or_insert_with(|| Box::new(builder(streams, grants, job).build()))
    }
}

fn builder(
    (stdout, stderr): (&Stream, &Stream),
    grants: &Grants,
    job: Option<&Job>,
) -> wasmtime_wasi::WasiCtxBuilder {
    let mut wasi = WasiCtx::builder();
    // The builder's defaults grant nothing; said again where it matters most.
    wasi.stdout(stdout.clone())
        .stderr(stderr.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES);
    if let (Some(config), Some(job)) = (grants.deterministic, job) {
        deterministic::apply(&mut wasi, config, &job.id);
    }
    wasi
}
