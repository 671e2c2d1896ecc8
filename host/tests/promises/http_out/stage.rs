//! A sandbox with a guest that makes requests, and what it is granted.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lovage::outcome::{Failure, Outcome};
use lovage::policy::{Grants, HttpPolicy};
use lovage::sandbox::{
    EngineOptions, LoadedComponent, Network, Plan, Report, Resolve, Sandbox, Services,
};
use serde_json::{Value, json};

use crate::guests::{load, run};

pub struct Stage {
    sandbox: Sandbox,
    component: Arc<LoadedComponent>,
    pub plan: Plan,
}

impl Stage {
    /// The guest `fetch`, in the network as it is.
    pub async fn fetch(http: &[&str], networks: &[&str]) -> Self {
        Self::with("fetch", Network::default(), http, networks).await
    }

    /// The hostile one.
    pub async fn hostile(http: &[&str], networks: &[&str]) -> Self {
        Self::with("hostile/dials-out", Network::default(), http, networks).await
    }

    pub async fn with(guest: &str, network: Network, http: &[&str], networks: &[&str]) -> Self {
        let options = EngineOptions { slots: 4, ..EngineOptions::default() };
        #[allow(clippy::needless_update, reason = "there will be more of them")]
        let services = Services { network, ..Services::default() };
        let sandbox = Sandbox::with(options, services).unwrap();
        let component = load(&sandbox, guest).await;
        let http = HttpPolicy::new(
            &list(http),
            "tasks.fetch.grants.http",
            &list(networks),
            "tasks.fetch.grants.http_networks",
        );
        let grants = Arc::new(Grants { http: http.unwrap(), ..Grants::default() });
        Self { sandbox, component, plan: Plan { grants, ..Plan::default() } }
    }

    pub async fn run(&self, task: &str, payload: &Value) -> Report {
        let plan = self.plan.clone();
        run(&self.sandbox, &self.component, task, &payload.to_string(), |to| *to = plan).await
    }

    /// What `fetch` gives back.
    pub async fn ask(&self, payload: &Value) -> Value {
        let report = self.run("fetch", payload).await;
        match &report.outcome {
            Outcome::Done(output) => serde_json::from_slice(&output.data).unwrap(),
            other => panic!("{payload}: {other:?}"),
        }
    }

    /// What a server that echoes was asked.
    pub async fn echo(&self, payload: &Value) -> Value {
        let answer = self.ask(payload).await;
        serde_json::from_str(answer["body"].as_str().unwrap()).unwrap()
    }

    /// How `fetch` fails at a URL.
    pub async fn refused(&self, url: &str) -> Failure {
        failure(self.run("fetch", &json!({ "url": url })).await)
    }
}

pub fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

pub fn failure(report: Report) -> Failure {
    match report.outcome {
        Outcome::Failed(failure)
        | Outcome::Crashed(failure)
        | Outcome::TimedOut(failure)
        | Outcome::Rejected(failure)
        | Outcome::Retry { failure, .. } => failure,
        other => panic!("{other:?}"),
    }
}

pub fn detail(failure: &Failure) -> &str {
    failure.detail.as_deref().unwrap_or_default()
}

/// Names, each with answers that are given one after the other; the last one stays.
#[derive(Default)]
pub struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    pub asked: AtomicUsize,
}

impl Names {
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers.iter().map(|all| all.iter().map(|ip| ip.parse().unwrap()).collect());
        self.answers.lock().unwrap().insert(name.to_owned(), answers.collect());
    }
}

#[async_trait::async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut all = self.answers.lock().unwrap();
        let answers = all.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}
