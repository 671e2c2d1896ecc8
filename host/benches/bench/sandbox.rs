//! A whole attempt in a sandbox of its own, beside what wasmtime makes of it as it comes, the same
//! call without a sandbox of its own, and no WebAssembly at all.

use std::{hint::black_box, path::Path, sync::Arc, time::Duration};

use lovage::{
    job::Job,
    outcome::Outcome,
    sandbox::{EngineOptions, Limits, LoadedComponent, Plan, Sandbox},
};
use tokio::runtime::{Builder, Runtime};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, StoreContextMut,
    StoreLimits, StoreLimitsBuilder,
    component::{Component, Linker, ResourceTable, Val},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::contract::{TaskPre, exports::lovage::task::handler::Invocation};
use super::{
    measure::{median, micros, stopwatch},
    report::Report,
    worker::guest,
};

#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]
mod contract {
    wasmtime::component::bindgen!({
        path: "../wit/v1",
        world: "lovage:task/task",
        exports: { default: async },
    });
}

const ROUNDS: usize = 15;
const ATTEMPTS: u32 = 1000;
const ATTEMPTS_OF_LARGE: u32 = 50;

pub fn run(report: &mut Report) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let file = guest("process_data.wasm");
    let ours = Ours::new(&runtime, &file);
    let plain = Plain::new(&file);
    let mut reused = plain.instance(&runtime);
    let mut figures: [Vec<f64>; 4] = Default::default();
    // In turn, so that what disturbs the machine disturbs all of them.
    for round in 0..=ROUNDS {
        let costs = [
            cost(ATTEMPTS, || ours.attempt(&runtime)),
            cost(ATTEMPTS, || plain.attempt(&runtime)),
            cost(ATTEMPTS, || call(&runtime, &mut reused, "process_data")),
            cost(ATTEMPTS, native),
        ];
        if round > 0 {
            for (all, cost) in figures.iter_mut().zip(costs) {
                all.push(cost);
            }
        }
    }
    let [fresh, plain_pooled, again, native] = figures.map(median);
    let part = |of: f64| format!("{:.2} × plain", of / plain_pooled);
    report.section("sandbox");
    let name = "sandbox";
    report.figure(name, "fresh_us", "fresh sandbox: CPU of a whole attempt", fresh, &part(fresh));
    report.figure(name, "plain_pooled_us", "plain wasmtime, pooled, defaults", plain_pooled, "");
    report.figure(name, "reused_us", "a reused instance: no isolation", again, &part(again));
    report.figure(name, "native_us", "native: no sandbox at all", native, "");
}

/// The same with guests in other languages, which `make bench-guests` has built.
pub fn guests(report: &mut Report) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    report.section("guests");
    for language in ["python", "js-starlingmonkey"] {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guests/{language}.wasm"));
        if !file.exists() {
            eprintln!("skipped: {} is missing: `make bench-guests` builds it", file.display());
            continue;
        }
        let ours = Ours::new(&runtime, &file);
        let plain = Plain::new(&file);
        let mut figures: [Vec<f64>; 2] = Default::default();
        for round in 0..=ROUNDS {
            let costs = [
                cost(ATTEMPTS_OF_LARGE, || ours.attempt(&runtime)),
                cost(ATTEMPTS_OF_LARGE, || {
                    call(&runtime, &mut plain.instance(&runtime), &ours.job.task);
                }),
            ];
            if round > 0 {
                for (all, cost) in figures.iter_mut().zip(costs) {
                    all.push(cost);
                }
            }
        }
        let [fresh, plain] = figures.map(median);
        let what = format!("{language}: CPU of a whole attempt");
        let part = format!("{:.2} × plain", fresh / plain);
        report.figure("guests", &format!("{language}_us"), &what, fresh, &part);
        let what = format!("{language}: plain wasmtime, pooled, defaults");
        report.figure("guests", &format!("{language}_plain_us"), &what, plain, "");
    }
}

/// CPU microseconds of one, over many.
fn cost(times: u32, mut one: impl FnMut()) -> f64 {
    let stop = stopwatch();
    for _ in 0..times {
        one();
    }
    micros(stop().cpu) / f64::from(times)
}

/// An attempt as workers make it.
struct Ours {
    sandbox: Sandbox,
    component: Arc<LoadedComponent>,
    job: Job,
    plan: Plan,
}

impl Ours {
    fn new(runtime: &Runtime, file: &Path) -> Self {
        let options = EngineOptions { ready_instances: 0, ..EngineOptions::default() };
        let sandbox = Sandbox::new(options).unwrap();
        let limits = Limits::default();
        let component = runtime.block_on(sandbox.prepare(file, &limits)).unwrap();
        let job = Job::new("a-job", component.tasks[0].name.clone(), "21");
        Self { sandbox, component, job, plan: Plan { limits, ..Plan::default() } }
    }

    fn attempt(&self, runtime: &Runtime) {
        let report =
            runtime.block_on(self.sandbox.run(&self.component, self.job.clone(), &self.plan));
        assert!(matches!(&report.outcome, Outcome::Done(output) if output.data == "42"));
    }
}

/// What a host has that takes wasmtime and WASI as they come, and changes nothing but what it
/// cannot do without: limits on time and memory.
struct Plain {
    engine: Engine,
    pre: TaskPre<State>,
}

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// An instance that is called again and again.
type Reused = (Store<State>, contract::Task);

impl Plain {
    fn new(file: &Path) -> Self {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let mut pool = PoolingAllocationConfig::new();
        // Python's are of more than 20 core instances.
        pool.total_component_instances(16).total_core_instances(1024).total_memories(16);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).unwrap();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let component = Component::from_file(&engine, file).unwrap();
        // For those that import it.
        let mut progress = linker.instance("lovage:task/progress@1.1.0").unwrap();
        let answers = [
            ("report", None),
            ("is-revoked", Some(Val::Bool(false))),
            ("why-revoked", Some(Val::Option(None))),
        ];
        for (name, answer) in answers {
            let call = move |_: StoreContextMut<'_, State>, _, _: &[Val], results: &mut [Val]| {
                if let (Some(result), Some(answer)) = (results.first_mut(), &answer) {
                    *result = answer.clone();
                }
                Ok(())
            };
            progress.func_new(name, call).unwrap();
        }
        let pre = TaskPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
        Self { engine, pre }
    }

    fn instance(&self, runtime: &Runtime) -> Reused {
        let state = State {
            wasi: WasiCtx::builder().build(),
            table: ResourceTable::new(),
            limits: StoreLimitsBuilder::new().memory_size(128 << 20).build(),
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_epoch_deadline(1000);
        let task = runtime.block_on(self.pre.instantiate_async(&mut store)).unwrap();
        (store, task)
    }

    fn attempt(&self, runtime: &Runtime) {
        call(runtime, &mut self.instance(runtime), "process_data");
    }
}

fn call(runtime: &Runtime, (store, task): &mut Reused, name: &str) {
    let invocation = Invocation {
        id: "a-job".to_owned(),
        task: name.to_owned(),
        tenant: String::new(),
        attempt: 1,
        max_attempts: 1,
        deadline: 0,
        root_id: "a-job".to_owned(),
        parent_id: None,
        headers: Vec::new(),
        content_type: "application/json".to_owned(),
        payload: b"21".to_vec(),
    };
    let call = task.lovage_task_handler().call_run(store, &invocation);
    // A timer, as every host of others' code needs one.
    let call = async { tokio::time::timeout(Duration::from_mins(1), call).await };
    let output = runtime.block_on(call).unwrap().unwrap().unwrap();
    assert_eq!(output.data, b"42");
}

/// The JSON work of the guest.
fn native() {
    let value: serde_json::Value = serde_json::from_slice(black_box(b"21")).unwrap();
    let doubled = value.as_i64().unwrap() * 2;
    black_box(serde_json::to_vec(&doubled).unwrap());
}
