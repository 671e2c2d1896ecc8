//! What a worker and its children say to each other, over one socket.
//!
//! A frame is two lengths of four bytes (little endian), a header in JSON and bytes. Neither side
//! takes a frame that is larger than it allows for, and the child is not trusted: what it sends
//! ends its own attempt at worst.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::unix::OwnedReadHalf,
};

use lovage_config::GrantsConfig;
use lovage_core::{
    cancellation::Progress,
    follow_on::FollowOn,
    job::Job,
    outcome::{Failure, Outcome, Output},
    usage::Usage,
};
use lovage_sandbox::{GivenConfig, Limits, Mode, Report, Tail, TaskSpec};
use lovage_services::keyvalue::{Answer, Operation, OperationError};

/// The most bytes of a frame's header, beside what the frame's sender is allowed in all.
pub const HEADER_BYTES: usize = 32 << 20;

/// What a child is told once, before anything else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// The engine's settings that generated code depends on.
    pub memory_reservation: u64,
    /// See [`memory_reservation`](Self::memory_reservation).
    pub memory_guard: u64,
    /// The most that any attempt may have, for the pool.
    pub largest: Limits,
    /// How often a guest that computes lets the child look at its socket.
    pub tick: Duration,
    /// Bytes of memory that the process may take beside address space.
    pub memory_bytes: u64,
    /// True where its attempts may make HTTP requests.
    pub network: bool,
    /// The directory under which its attempts have their scratch directories.
    pub scratch: Option<PathBuf>,
}

/// From the worker to its child.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToChild {
    /// The first frame.
    Start(Box<Start>),
    /// A component; its native code is the frame's bytes.
    Code {
        /// The digest of its `.wasm` file.
        digest: String,
        /// Its file, as it is named to people.
        file: String,
        /// The size of the `.wasm` file in bytes.
        size: u64,
        /// The engine that it is for.
        mode: Mode,
        /// What it serves.
        tasks: Vec<TaskSpec>,
    },
    /// An attempt; the payload is the frame's bytes.
    Attempt(Box<Attempt>),
    /// What came of an operation on a bucket; a value is the frame's bytes.
    Answer(Result<Answer, OperationError>),
    /// The attempt should end.
    Revoked {
        /// True where the worker stops; else somebody revoked the job.
        stopping: bool,
    },
}

/// One attempt.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The component's digest.
    pub digest: String,
    /// The job, without its payload.
    pub job: Job,
    /// What it may use.
    pub limits: Limits,
    /// The attempt after which the host gives up.
    pub max_attempts: u32,
    /// When the host has to end, from now.
    pub deadline_in: Option<Duration>,
    /// What its task is granted, defaults included.
    pub task_grants: GrantsConfig,
    /// What its tenant narrows that to; `None` for a tenant that is not configured.
    pub tenant_grants: Option<GrantsConfig>,
    /// What it reads by `wasi:config/store`.
    pub config: GivenConfig,
    /// True where its output is logged.
    pub log_guests: bool,
    /// True where the payload is held to the task's schema.
    pub check_payload: bool,
}

/// From the child to its worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToParent {
    /// It is confined, and takes attempts.
    Ready {
        /// How far Landlock holds: `full`, `partial` or `none`, as the kernel has it.
        landlock: String,
    },
    /// How far the guest is.
    Progress(Progress),
    /// A line that the guest wrote.
    Line {
        /// True for standard error.
        stderr: bool,
        /// The line, made fit to be shown.
        line: String,
        /// Bytes that were left out of it.
        cut: Option<u64>,
    },
    /// The guest wants something of a bucket.
    Operation(Operation),
    /// The attempt is over; output and follow-on jobs are the frame's bytes, one after the other.
    Report(Box<ReportHeader>),
}

/// What an attempt came to, but for bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReportHeader {
    outcome: WireOutcome,
    output_bytes: usize,
    follow_ons: Vec<(FollowOn, usize)>,
    usage: Usage,
    stdout: Tail,
    stderr: Tail,
}

#[derive(Debug, Serialize, Deserialize)]
enum WireOutcome {
    Done { content_type: String },
    Retry { failure: Failure, after: Option<Duration> },
    Snooze { after: Duration },
    Failed(Failure),
    Rejected(Failure),
    TimedOut(Failure),
    Crashed(Failure),
    HostFault(Failure),
    Expired,
    Revoked,
    Abandoned,
}

/// A report as a header and bytes.
pub fn split(report: Report) -> (ReportHeader, Vec<u8>) {
    let mut bytes = Vec::new();
    let outcome = match report.outcome {
        Outcome::Done(output) => {
            bytes.extend_from_slice(&output.data);
            WireOutcome::Done { content_type: output.content_type }
        }
        Outcome::Retry { failure, after } => WireOutcome::Retry { failure, after },
        Outcome::Snooze { after } => WireOutcome::Snooze { after },
        Outcome::Failed(failure) => WireOutcome::Failed(failure),
        Outcome::Rejected(failure) => WireOutcome::Rejected(failure),
        Outcome::TimedOut(failure) => WireOutcome::TimedOut(failure),
        Outcome::Crashed(failure) => WireOutcome::Crashed(failure),
        Outcome::HostFault(failure) => WireOutcome::HostFault(failure),
        Outcome::Expired => WireOutcome::Expired,
        Outcome::Revoked => WireOutcome::Revoked,
        // No attempt leaves its message to others: that is decided before one begins.
        Outcome::Abandoned | Outcome::Left { .. } => WireOutcome::Abandoned,
    };
    let output_bytes = bytes.len();
    let mut follow_ons = Vec::with_capacity(report.follow_ons.len());
    for follow_on in report.follow_ons {
        bytes.extend_from_slice(&follow_on.payload);
        let length = follow_on.payload.len();
        follow_ons.push((follow_on, length));
    }
    let Report { usage, stdout, stderr, .. } =
        Report { outcome: Outcome::Abandoned, follow_ons: Vec::new(), ..report };
    (ReportHeader { outcome, output_bytes, follow_ons, usage, stdout, stderr }, bytes)
}

/// The report again; `None` where the lengths are not those of the bytes.
pub fn join(header: ReportHeader, mut bytes: Bytes) -> Option<Report> {
    let mut take = |length: usize| (length <= bytes.len()).then(|| bytes.split_to(length));
    let data = take(header.output_bytes)?;
    let outcome = match header.outcome {
        WireOutcome::Done { content_type } => Outcome::Done(Output { content_type, data }),
        WireOutcome::Retry { failure, after } => Outcome::Retry { failure, after },
        WireOutcome::Snooze { after } => Outcome::Snooze { after },
        WireOutcome::Failed(failure) => Outcome::Failed(failure),
        WireOutcome::Rejected(failure) => Outcome::Rejected(failure),
        WireOutcome::TimedOut(failure) => Outcome::TimedOut(failure),
        WireOutcome::Crashed(failure) => Outcome::Crashed(failure),
        WireOutcome::HostFault(failure) => Outcome::HostFault(failure),
        WireOutcome::Expired => Outcome::Expired,
        WireOutcome::Revoked => Outcome::Revoked,
        WireOutcome::Abandoned => Outcome::Abandoned,
    };
    let follow_ons = header.follow_ons.into_iter();
    let follow_ons = follow_ons
        .map(|(follow_on, length)| Some(FollowOn { payload: take(length)?, ..follow_on }))
        .collect::<Option<Vec<_>>>()?;
    let (usage, stdout, stderr) = (header.usage, header.stdout, header.stderr);
    Some(Report { outcome, follow_ons, usage, stdout, stderr })
}

/// Writes a frame.
pub async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    header: &T,
    bytes: &[u8],
) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    let mut frame = Vec::with_capacity(8 + header.len());
    for length in [header.len(), bytes.len()] {
        let length = u32::try_from(length).map_err(io::Error::other)?;
        frame.extend_from_slice(&length.to_le_bytes());
    }
    frame.extend_from_slice(&header);
    to.write_all(&frame).await?;
    to.write_all(bytes).await?;
    to.flush().await
}

/// Reads a frame of at most [`HEADER_BYTES`] and `most` bytes. Not to be dropped half-way. `None`
/// at the end of the stream.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most: u64,
) -> io::Result<Option<(T, Bytes)>> {
    let mut first = [0];
    if from.read(&mut first).await? == 0 {
        return Ok(None);
    }
    let [first] = first;
    read_rest(first, from, most).await.map(Some)
}

/// Waits for the first byte of a frame; `None` at the end of the stream. May be dropped, unlike what
/// reads the [rest](read_rest): readiness alone is no sign that there is a byte.
pub async fn first_byte(from: &OwnedReadHalf) -> io::Result<Option<u8>> {
    let mut first = [0];
    loop {
        from.readable().await?;
        match from.try_read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(first.first().copied()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads what follows the first byte of a frame. See [`read`].
pub async fn read_rest<T: DeserializeOwned>(
    first: u8,
    from: &mut (impl AsyncRead + Unpin),
    most: u64,
) -> io::Result<(T, Bytes)> {
    let mut rest = [0; 3];
    from.read_exact(&mut rest).await?;
    let [second, third, fourth] = rest;
    let header = u32::from_le_bytes([first, second, third, fourth]) as usize;
    let bytes = from.read_u32_le().await?;
    if header > HEADER_BYTES || u64::from(bytes) > most {
        let told = format!("a frame of {header} and {bytes} bytes is larger than is allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, told));
    }
    // Grown as the bytes come, not by what is said of their length.
    let mut frame = Vec::with_capacity(header.min(64 << 10));
    from.take(header as u64).read_to_end(&mut frame).await?;
    let header = serde_json::from_slice(&frame)?;
    let mut body = Vec::with_capacity((bytes as usize).min(1 << 20));
    from.take(u64::from(bytes)).read_to_end(&mut body).await?;
    if body.len() as u64 != u64::from(bytes) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((header, body.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: Outcome) -> Report {
        let follow_on = |payload: &'static str| FollowOn {
            id: payload.to_owned(),
            task: "t".to_owned(),
            content_type: "application/json".to_owned(),
            payload: payload.into(),
            delay: Duration::from_millis(5),
        };
        Report {
            outcome,
            follow_ons: vec![follow_on("1"), follow_on("[2]")],
            usage: Usage { host_calls: 7, ..Usage::default() },
            stdout: Tail::default(),
            stderr: Tail::default(),
        }
    }

    #[tokio::test]
    async fn reports_come_over_the_socket_as_they_were() {
        let failure = Failure::new("k", "m").with_detail("d");
        let outcomes = [
            Outcome::Done(Output { content_type: "text/plain".into(), data: "data".into() }),
            Outcome::Retry { failure: failure.clone(), after: Some(Duration::from_secs(3)) },
            Outcome::Snooze { after: Duration::from_secs(1) },
            Outcome::Failed(failure.clone()),
            Outcome::Rejected(failure.clone()),
            Outcome::TimedOut(failure.clone()),
            Outcome::Crashed(failure.clone()),
            Outcome::HostFault(failure),
            Outcome::Expired,
            Outcome::Revoked,
            Outcome::Abandoned,
        ];
        for outcome in outcomes {
            let (mut one, mut other) = tokio::io::duplex(1 << 16);
            let (header, bytes) = split(report(outcome.clone()));
            write(&mut one, &header, &bytes).await.unwrap();
            drop(one);
            let (header, bytes) = read(&mut other, 1 << 10).await.unwrap().unwrap();
            assert_eq!(join(header, bytes), Some(report(outcome)));
            assert!(read::<ReportHeader>(&mut other, 9).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_or_cut_short_is_an_error() {
        let (mut one, mut other) = tokio::io::duplex(1 << 16);
        write(&mut one, &1, &[0; 100]).await.unwrap();
        assert!(read::<u32>(&mut other, 99).await.is_err());
        let (mut one, mut other) = tokio::io::duplex(1 << 16);
        one.write_all(&[1, 0, 0, 0, 9, 0, 0, 0, b'1', 0, 0]).await.unwrap();
        drop(one);
        assert!(read::<u32>(&mut other, 99).await.is_err());
    }

    #[test]
    fn lengths_that_lie_are_no_report() {
        let (mut header, bytes) = split(report(Outcome::Expired));
        header.output_bytes = 1 << 40;
        assert_eq!(join(header, bytes.into()), None);
    }
}
