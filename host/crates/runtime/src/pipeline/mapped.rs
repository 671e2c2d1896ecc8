//! `celery.map` and `celery.starmap`: the task's guest runs once for each item, within one attempt of
//! one job, as a worker of Celery's does it. All runs share the attempt's limits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{End, Ended, Pipeline, Run, celery, ready::Ready};
use crate::{message::DecodedJob, routes::Source, settings::Settings};
use lovage_celery::{Json, Map, Mapped, Plan, Request};
use lovage_core::{
    media_type::JSON,
    outcome::{Failure, Outcome, Output},
};
use lovage_registry::Task;

/// The least time that a run is given, so that it ends by its limit and says so.
const LEAST: Duration = Duration::from_millis(1);

/// What a request of Celery's calls.
pub(super) enum Calls {
    /// The task, once.
    One(Bytes),
    /// The task, once for each item.
    Each(Mapped),
}

impl Pipeline {
    /// What a request calls, with the payload where there is one call.
    pub(super) fn calls(&self, task: &Task, request: &Request) -> Result<Calls, Failure> {
        match Mapped::of(request) {
            None => self.arguments(task, &request.args, &request.kwargs).map(Calls::One),
            Some(Ok(mapped)) => Ok(Calls::Each(mapped)),
            Some(Err(why)) => Err(Failure::new("TypeError", why)),
        }
    }

    /// Runs the guest for each item. The first that does not succeed ends the attempt with its
    /// outcome.
    pub(super) async fn run_each(
        &self,
        source: &Source,
        job: &DecodedJob,
        Ready { task, settings }: Ready,
        items: Mapped,
        now: Timestamp,
        end: Option<End>,
    ) -> Ended {
        let started = Instant::now();
        let mut whole = Whole { results: Vec::new(), bytes: 2, run: None, follow_ons: Vec::new() };
        for args in items.calls() {
            let payload = args
                .map_err(|why| Failure::new("TypeError", why))
                .and_then(|args| self.arguments(&task, &args, &Map::new()));
            let payload = match payload {
                Ok(payload) => payload,
                Err(failure) => return whole.ended(Outcome::Failed(failure), settings),
            };
            let mut one = job.clone();
            one.job_mut().payload = payload;
            let ready = Ready { task: Arc::clone(&task), settings: whole.left(&settings, started) };
            let ended = self.run_call(source, one, ready, now, end).await;
            if let Err(outcome) = whole.take(ended, &settings) {
                return whole.ended(outcome, settings);
            }
        }
        let list = Json::list(&whole.results);
        let data = list.text().to_owned().into();
        whole.results = Vec::new();
        let output = Output { content_type: JSON.to_owned(), data };
        whole.ended(Outcome::Done(output), settings)
    }
}

/// What all runs came to so far.
struct Whole {
    results: Vec<Json>,
    bytes: usize,
    run: Option<Run>,
    follow_ons: Vec<lovage_core::follow_on::FollowOn>,
}

impl Whole {
    /// The settings of the next run: what is left of the attempt's time.
    fn left(&self, settings: &Settings, started: Instant) -> Settings {
        let mut left = settings.clone();
        let limits = &mut left.limits;
        let elapsed = started.elapsed();
        limits.timeout = limits.timeout.saturating_sub(elapsed).max(LEAST);
        limits.soft_timeout = limits.soft_timeout.map(|it| it.saturating_sub(elapsed).max(LEAST));
        let spent = self.run.as_ref().map(|run| run.usage.cpu).unwrap_or_default();
        limits.cpu = limits.cpu.map(|cpu| cpu.saturating_sub(spent).max(LEAST));
        let sent = u32::try_from(self.follow_ons.len()).unwrap_or(u32::MAX);
        limits.dispatch_jobs = limits.dispatch_jobs.saturating_sub(sent);
        limits.output_bytes = limits.output_bytes.saturating_sub(self.bytes).max(1);
        left
    }

    /// Takes one run's result, or its outcome where it has none.
    fn take(&mut self, ended: Ended, settings: &Settings) -> Result<(), Outcome> {
        let before = self.run.take().map(|run| run.usage);
        self.run = ended.run.map(|mut run| {
            if let Some(before) = before {
                let usage = &mut run.usage;
                usage.cpu += before.cpu;
                usage.wall += before.wall;
                usage.peak_memory_bytes = usage.peak_memory_bytes.max(before.peak_memory_bytes);
                usage.memory_byte_ms = usage.memory_byte_ms.saturating_add(before.memory_byte_ms);
                usage.host_calls = usage.host_calls.saturating_add(before.host_calls);
                usage.bytes_in = usage.bytes_in.saturating_add(before.bytes_in);
                usage.bytes_out = usage.bytes_out.saturating_add(before.bytes_out);
            }
            run
        });
        let Outcome::Done(output) = ended.outcome else { return Err(ended.outcome) };
        let result = celery::json(&output);
        self.bytes = self.bytes.saturating_add(result.text().len() + 2);
        if self.bytes > settings.limits.output_bytes {
            return Err(Outcome::Failed(Failure::new(
                "output_too_large",
                format!(
                    "the results of all items have more than {} bytes (`output_bytes` raises it)",
                    settings.limits.output_bytes
                ),
            )));
        }
        self.results.push(result);
        self.follow_ons.extend(ended.follow_ons);
        Ok(())
    }

    fn ended(self, outcome: Outcome, settings: Settings) -> Ended {
        let follow_ons =
            if matches!(outcome, Outcome::Done(_)) { self.follow_ons } else { Vec::new() };
        Ended { outcome, settings, run: self.run, follow_ons, celery: Plan::default() }
    }
}
