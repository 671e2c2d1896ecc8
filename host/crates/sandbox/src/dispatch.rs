//! Follow-on jobs, as a guest asks for them: each is held to what its task is granted, and kept
//! until the attempt has succeeded.

use std::time::Duration;

use bytes::Bytes;

use super::limits::{Limit, Limits};
use super::output::{MAX_CONTENT_TYPE_BYTES, MAX_DELAY, is_media_type, one_json_value};
use super::spec;
use super::state::State;
use lovage_core::follow_on::{self, Budget, FollowOn};
use lovage_core::media_type::is_json;
use lovage_core::text::one_line;

/// Why a follow-on job is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The task is not granted.
    Denied(String),
    /// There are as many as there may be.
    TooMany(String),
    /// The payload has more than so many bytes.
    TooLarge(u64),
    /// The request breaks the contract.
    Invalid(String),
}

/// The most bytes that the payloads of all follow-on jobs of an attempt have together, for each
/// that there may be: it bounds what the host holds for a guest.
const BYTES_EACH: usize = 64 << 10;

/// What a follow-on job takes in memory beside its texts.
const FOLLOW_ON_BYTES: usize = 256;

impl State {
    /// Takes a guest's request for a job; the job's id.
    pub(crate) fn dispatch(
        &mut self,
        task: String,
        content_type: String,
        payload: Bytes,
        delay: Duration,
    ) -> Result<String, Refused> {
        let Some(job) = &self.job else {
            return Err(Refused::Denied("there is no job that could lead to another".to_owned()));
        };
        if !spec::is_name(&task) {
            return Err(Refused::Invalid(format!(
                "`{}` is no name of a task",
                one_line(&task, 200)
            )));
        }
        if !self.grants.dispatch.allow(&task) {
            return Err(Refused::Denied(format!(
                "`{}` is not granted jobs for the task `{task}` (`grants.dispatch` grants it)",
                one_line(&job.task, 200)
            )));
        }
        let Limits { dispatch_jobs, dispatch_depth, output_bytes, .. } = *self.limiter.limits();
        if self.follow_ons.len() >= dispatch_jobs as usize {
            let hint = Limit::DispatchJobs.hint();
            return Err(Refused::TooMany(format!(
                "an attempt may send {dispatch_jobs} jobs{hint}"
            )));
        }
        if job.depth.saturating_add(1) >= dispatch_depth {
            let hint = Limit::DispatchDepth.hint();
            return Err(Refused::TooMany(format!(
                "a chain of jobs that lead to each other may have {dispatch_depth} of them{hint}"
            )));
        }
        let Budget { jobs, bytes } = Budget::of(job, self.limiter.limits().tree());
        if self.follow_ons.len() as u64 >= jobs {
            let hint = Limit::DispatchTreeJobs.hint();
            return Err(Refused::TooMany(format!(
                "of the jobs that may follow from the first one, {jobs} are left for this one{hint}"
            )));
        }
        let sent = self.follow_ons.iter().map(FollowOn::bytes).sum::<u64>();
        if sent.saturating_add(FollowOn::bytes_of(&task, &content_type, &payload)) > bytes {
            let hint = Limit::DispatchTreeBytes.hint();
            return Err(Refused::TooMany(format!(
                "of the bytes that may follow from the first job, {bytes} are left for this \
                 one{hint}"
            )));
        }
        let held: usize = self.follow_ons.iter().map(|other| other.payload.len()).sum();
        let room = output_bytes.max(BYTES_EACH.saturating_mul(dispatch_jobs as usize));
        let most = output_bytes.min(room.saturating_sub(held));
        if payload.len() > most {
            return Err(Refused::TooLarge(most as u64));
        }
        if !is_media_type(&content_type) {
            let shown = one_line(&content_type, MAX_CONTENT_TYPE_BYTES);
            return Err(Refused::Invalid(format!("`{shown}` is no media type")));
        }
        if is_json(&content_type) {
            one_json_value(&payload).map_err(|reason| {
                Refused::Invalid(format!("the payload is not one JSON value: {reason}"))
            })?;
        }
        let id = follow_on::id(&job.id, self.follow_ons.len());
        let held = payload.len() + task.len() + content_type.len() + id.len() + FOLLOW_ON_BYTES;
        self.limiter.hold(held as u64).map_err(|refusal| {
            Refused::TooMany(format!("there is no memory for another job: {refusal}"))
        })?;
        let delay = delay.min(MAX_DELAY);
        self.bytes_out = self.bytes_out.saturating_add(payload.len() as u64);
        self.follow_ons.push(FollowOn { id: id.clone(), task, content_type, payload, delay });
        Ok(id)
    }
}
