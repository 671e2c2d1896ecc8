//! Components that nobody wrote: generated ones, and real ones that were mutated, by the thousand
//! through load, inspect and run. Whatever they are, the host neither panics nor hangs, and its
//! memory stays bounded.
//!
//! Seeds are fixed but for one, which is printed. `LOVAGE_GENERATED` is how many are made of each
//! sort, `LOVAGE_SEED` the seed that is not fixed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arbitrary::Unstructured;
use lovage::job::Job;
use lovage::registry::{LoadOptions, inspect};
use lovage::sandbox::{DETAIL_BYTES, EngineOptions, Limits, Plan, Sandbox};
use tokio::task::JoinSet;

use super::check::fits;
use super::harness::{alone, status};
use super::make::{OUTPUT, Parts, guest};
use crate::guests::file;

/// No input takes nearly as long.
const AT_MOST: Duration = Duration::from_mins(2);

/// How much more memory the process may have at the end than after the first eighth.
const SPARE_BYTES: u64 = 200 << 20;

/// Inputs are fed by so many tasks at once.
const FEEDERS: usize = 2;

/// How many of each sort, unless the environment says otherwise.
fn count(usual: usize) -> usize {
    let asked = std::env::var("LOVAGE_GENERATED").ok().and_then(|text| text.parse::<usize>().ok());
    // As many times more as the whole is more than usual.
    asked.map_or(usual, |asked| asked.saturating_mul(usual).div_ceil(USUAL))
}

/// What `LOVAGE_GENERATED` is when it is not set.
const USUAL: usize = 1000;

fn seed(test: &str) -> u64 {
    let given = std::env::var("LOVAGE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{test}: LOVAGE_SEED={seed}");
    seed
}

/// What became of the inputs, so that a test can tell that it tests something.
#[derive(Debug, Default)]
struct Tally {
    fed: AtomicUsize,
    loaded: AtomicUsize,
    run: AtomicUsize,
}

/// Feeds `count` inputs, of which half are made with fixed seeds.
fn feed(test: &str, count: usize, make: fn(&mut fastrand::Rng) -> Option<Vec<u8>>) -> Arc<Tally> {
    let random = seed(test);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(FEEDERS)
        .enable_all()
        .build()
        .unwrap();
    let tally = Arc::new(Tally::default());
    runtime.block_on(async {
        let options = EngineOptions { slots: 2, ..EngineOptions::default() };
        let sandbox = Sandbox::new(options).unwrap();
        let dir = Arc::new(tempfile::TempDir::new().unwrap());
        let mut settled = 0;
        for part in 0..8 {
            let mut feeders = JoinSet::new();
            for feeder in 0..FEEDERS {
                let (sandbox, tally, dir) = (sandbox.clone(), tally.clone(), dir.clone());
                feeders.spawn(async move {
                    for n in
                        (part * count / 8..(part + 1) * count / 8).skip(feeder).step_by(FEEDERS)
                    {
                        let seed = if n % 2 == 0 { n as u64 } else { random ^ n as u64 };
                        let Some(bytes) = make(&mut fastrand::Rng::with_seed(seed)) else {
                            continue;
                        };
                        let file = dir.path().join(format!("{n}.wasm"));
                        // The last one's file is left when something fails.
                        std::fs::write(&file, &bytes).unwrap();
                        let fed = withstand(&sandbox, &file, &bytes, n, &tally);
                        let ended = tokio::time::timeout(AT_MOST, fed).await.is_ok();
                        assert!(ended, "seed {seed}: does not end");
                        std::fs::remove_file(&file).unwrap();
                    }
                });
            }
            while let Some(fed) = feeders.join_next().await {
                fed.unwrap();
            }
            assert_eq!(sandbox.free_slots(), 2);
            if part == 0 {
                settled = status("VmRSS:") * 1024;
            }
        }
        let now = status("VmRSS:") * 1024;
        assert!(now <= settled + SPARE_BYTES, "{now} bytes of memory, after {settled}");
    });
    eprintln!("{test}: {tally:?}");
    tally
}

async fn withstand(
    sandbox: &Sandbox,
    file: &std::path::Path,
    bytes: &[u8],
    n: usize,
    tally: &Tally,
) {
    let mut plan = Plan::default();
    plan.limits =
        Limits { timeout: Duration::from_millis(200), memory_bytes: 32 << 20, ..plan.limits };
    tally.fed.fetch_add(1, Ordering::Relaxed);
    // Seldom, since it compiles once more.
    if n.is_multiple_of(10) {
        let options = LoadOptions { limits: plan.limits, ..LoadOptions::default() };
        match inspect(sandbox, file, &options).await {
            Ok(found) => fits(&found.problem.unwrap_or_default(), 2 * DETAIL_BYTES, true),
            Err(error) => panic!("{error}"),
        }
    }
    let component = match sandbox.prepare_bytes("generated", bytes, &plan.limits).await {
        Ok(component) => component,
        Err(error) => return fits(&error.to_string(), 2 * DETAIL_BYTES, true),
    };
    tally.loaded.fetch_add(1, Ordering::Relaxed);
    for task in component.tasks.iter().take(2) {
        let job = Job::new("job-1", &task.name, r#"{"data": [1, "two", null]}"#);
        let report = sandbox.run(&component, job, &plan).await;
        tally.run.fetch_add(1, Ordering::Relaxed);
        fits(&format!("{:?}", report.outcome), usize::MAX, true);
    }
}

fn noise(rng: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let mut noise = vec![0; rng.usize(16..most)];
    rng.fill(&mut noise);
    noise
}

/// Whole components of wasm-smith: hardly one has a handler, so they test what comes before.
#[test]
fn generated_components_neither_panic_nor_hang() {
    alone("hostile::generated::generated_components_neither_panic_nor_hang", || {
        feed("generated components", count(200), |rng| {
            let noise = noise(rng, 4096);
            let config = wasm_smith::Config::default();
            let made = wasm_smith::Component::new(config, &mut Unstructured::new(&noise)).ok()?;
            Some(made.to_bytes())
        });
    });
}

/// Core modules of wasm-smith as handlers: everything but `describe` is random.
#[test]
fn generated_handlers_neither_panic_nor_hang() {
    alone("hostile::generated::generated_handlers_neither_panic_nor_hang", || {
        let tally = feed("generated handlers", count(400), |rng| {
            let noise = noise(rng, 8192);
            let config = wasm_smith::Config {
                exports: Some(shape()),
                // Otherwise few come as far as to run.
                allow_start_export: rng.u8(..4) == 0,
                disallow_traps: rng.bool(),
                max_imports: 0,
                min_imports: 0,
                max_memories: 1,
                memory64_enabled: false,
                gc_enabled: false,
                exceptions_enabled: false,
                threads_enabled: false,
                custom_page_sizes_enabled: false,
                max_memory32_bytes: 16 << 20,
                ..wasm_smith::Config::default()
            };
            let module = wasm_smith::Module::new(config, &mut Unstructured::new(&noise)).ok()?;
            let module = with_description(&module.to_bytes())?;
            crate::guests::try_component(module).ok()
        });
        assert!(tally.run.load(Ordering::Relaxed) > count(400) / 100, "{tally:?}");
    });
}

/// What the module of a handler exports.
fn shape() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "lovage:task/handler@1.0.0#describe") (result i32) unreachable)
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32) unreachable))"#,
    )
    .unwrap()
}

/// The module with another body for `describe`: it writes what it gives back to its memory.
fn with_description(module: &[u8]) -> Option<Vec<u8>> {
    let mut body = wasm_encoder::Function::new([]);
    let mut it = body.instructions();
    let word = wasm_encoder::MemArg { offset: 0, align: 2, memory_index: 0 };
    // A list of one at 64, whose name is at 32; all else is empty.
    let mut words = vec![(64, 80), (68, 1), (32, i32::from(b't')), (80, 32), (84, 1)];
    words.extend((88..144).step_by(4).map(|at| (at, 0)));
    for (at, value) in words {
        it.i32_const(at).i32_const(value).i32_store(word);
    }
    it.i32_const(64).end();
    crate::wasm::with_body(module, "lovage:task/handler@1.0.0#describe", &body.into_raw_body())
}

/// Core modules inside of real guests, mutated so that they stay valid and mean something else.
#[test]
fn mutated_guests_neither_panic_nor_hang() {
    alone("hostile::generated::mutated_guests_neither_panic_nor_hang", || {
        let tally = feed("mutated guests", count(150), |rng| {
            let component = original(rng);
            crate::wasm::with_first_module(&component, |module| {
                let mut module = module.to_vec();
                for _ in 0..rng.usize(1..4) {
                    let mut mutate = wasm_mutate::WasmMutate::default();
                    mutate.seed(rng.u64(..)).fuel(300).preserve_semantics(false);
                    let mutated = mutate.run(&module).ok()?.next();
                    if let Some(Ok(mutated)) = mutated {
                        module = mutated;
                    }
                }
                Some(module)
            })
        });
        assert!(tally.run.load(Ordering::Relaxed) > 10, "{tally:?}");
    });
}

/// Bytes that are flipped, cut off, left out, doubled, or put where they do not belong.
#[test]
fn damaged_guests_neither_panic_nor_hang() {
    alone("hostile::generated::damaged_guests_neither_panic_nor_hang", || {
        let tally = feed("damaged guests", count(2000), |rng| Some(damaged(rng)));
        assert!(tally.fed.load(Ordering::Relaxed) >= count(2000), "{tally:?}");
    });
}

/// Every length up to the first kilobyte, and then some.
#[test]
fn truncated_guests_are_not_loaded() {
    alone("hostile::generated::truncated_guests_are_not_loaded", || {
        let tally = feed("truncated guests", count(1000), |rng| {
            let mut guest = original(rng);
            let most = if rng.bool() { guest.len().min(1024) } else { guest.len() };
            guest.truncate(rng.usize(..most));
            Some(guest)
        });
        // At the edge of a section it may be a whole component, but no handler.
        assert_eq!(tally.loaded.load(Ordering::Relaxed), 0, "{tally:?}");
    });
}

/// A small guest of ours, or a real one.
fn original(rng: &mut fastrand::Rng) -> Vec<u8> {
    match rng.u8(..8) {
        0 => std::fs::read(file("process_data")).unwrap(),
        1 => std::fs::read(file("hostile/twice")).unwrap(),
        _ => guest(Parts {
            world: OUTPUT.0,
            imports: OUTPUT.1,
            items: "(table $t 4 funcref) (global $g (mut i64) (i64.const 0))
                    (func $f (param i32 f64) (result i64)
                      (loop $l (result i64)
                        (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                        (global.set $g (i64.add (global.get $g)
                          (i64.trunc_sat_f64_s (local.get 1))))
                        (br_if $l (global.get $g) (local.get 0)) (drop) (global.get $g)))
                    (elem (i32.const 0) $f $f)",
            run: "(drop (call $f (i32.const 100) (f64.const 1.5)))
                  (call $write (call $stdout) (i32.const 8) (i32.const 10) (i32.const 512))",
            ..Parts::default()
        }),
    }
}

fn damaged(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = original(rng);
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..bytes.len());
        let length = rng.usize(1..64).min(bytes.len() - at);
        match rng.u8(..6) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => {
                bytes.drain(at..at + length);
            }
            3 => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = original(rng);
                let from = rng.usize(..other.len());
                let piece = &other[from..(from + length).min(other.len())];
                bytes.splice(at..at + length, piece.iter().copied());
            }
            // Numbers that are large on purpose.
            _ => {
                let end = (at + 5).min(bytes.len());
                bytes.splice(at..end, [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}
