use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "lovage.toml").map_err(|error| error.to_string())
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::load(Some(file.path()), environment).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_a_configuration() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(Config::default().consumed_queues(), ["default"]);
}

#[test]
fn an_unknown_field_is_refused_with_file_line_and_the_nearest_name() {
    let error = parse("[worker]\nthreads = 1\n\nconcurency = 8\n").unwrap_err();
    assert!(error.starts_with("lovage.toml:4:1: unknown field `concurency`"), "{error}");
    assert!(error.ends_with("did you mean `concurrency`?"), "{error}");
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let error = parse("[broker]\nkind = \"kafka\"\n").unwrap_err();
    assert!(error.starts_with("lovage.toml:2:8:") && error.contains("`sqs`"), "{error}");
    let error = parse("[worker]\nconcurrency = 0\n").unwrap_err();
    assert!(error.starts_with("lovage.toml:2:15:") && error.contains("nonzero"), "{error}");
    let error = parse("[worker\n").unwrap_err();
    assert!(error.starts_with("lovage.toml:1:"), "{error}");
}

#[test]
fn the_environment_stands_over_the_file() {
    let config = load(
        "[worker]\nconcurrency = 4\n[queues.jobs]\n",
        &[
            ("LOVAGE__WORKER__CONCURRENCY", "8"),
            ("LOVAGE__BROKER__KIND", "sqs"),
            ("LOVAGE__QUEUES__JOBS__DEFAULT_TASK", "echo"),
            ("LOVAGE__WORKER__QUEUES", r#"["jobs"]"#),
            ("UNRELATED", "1"),
        ],
    )
    .unwrap();
    assert_eq!(config.worker.concurrency.get(), 8);
    assert_eq!(config.broker.kind, BrokerKind::Sqs);
    assert_eq!(config.queues["jobs"].default_task.as_deref(), Some("echo"));
}

#[test]
fn a_wrong_variable_is_named() {
    let error = load("", &[("LOVAGE__WORKER__CONCURENCY", "8")]).unwrap_err();
    assert!(error.starts_with("environment variable LOVAGE__WORKER__CONCURENCY:"), "{error}");
    assert!(error.contains("did you mean `concurrency`?"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some("/nowhere/lovage.toml".as_ref()), []).unwrap_err().to_string();
    assert!(error.contains("/nowhere/lovage.toml") && error.contains("--config"), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let cases = [
        ("[worker]\nqueues = [\"job\"]\n[queues.jobs]\n", "did you mean `jobs`?"),
        ("[worker]\nconcurrency = 1\n[queues.a]\n[queues.b]\n", "at least that"),
        ("[worker]\nconcurrency = 65537\n", "worker.concurrency is 65537; at most 65536"),
        ("[queues.a]\nconcurrency = 65537\n", "queues.a.concurrency is 65537"),
        ("[worker]\nreceive_wait_ms = 30000\n", "100 to 20000"),
        ("[worker]\nreceive_wait_ms = 99\n", "100 to 20000"),
        ("[worker]\nmax_lease_ms = 10\n", "1000 to 43200000"),
        ("[worker]\nmax_lease_ms = 43200001\n", "1000 to 43200000"),
        ("[queues.a]\nresults = \"a\"\n", "taken for a job"),
        ("[queues.a]\ndead_letters = \"a\"\n", "queue itself"),
        ("[queues.a]\naddress = \"x\"\ndead_letters = \"x\"\n", "queue itself"),
        ("[queues.a]\nvisibility_timeout_ms = 10\n", "1000 to"),
        ("[broker]\nkind = \"sqs\"\n[queues.a]\nfifo = true\n", ".fifo"),
        ("[tasks.a]\ninstances = 10001\n", "tasks.a.instances is 10001; at most 10000"),
        ("[defaults]\nmemories = 101\n", "defaults.memories is 101; at most 100"),
        ("[defaults]\ntables = 1001\n", "defaults.tables is 1001; at most 1000"),
        ("[tasks.a]\ntable_elements = 10000001\n", "tasks.a.table_elements is 10000001"),
        ("[lambda]\nqueue = \"b\"\n", "lambda.queue"),
        ("[dispatch]\nqueue = \"a\"\n", "dispatch.kind"),
        ("[log]\nlevel = \"inof\"\n", "did you mean `info`?"),
        ("[sandbox]\nready_instances = 1001\n", "sandbox.ready_instances is 1001; at most 1000"),
        (
            "[sandbox]\nmemory_reservation_bytes = 67108864\n",
            "memory_reservation_bytes is 67108864, and defaults.memory_bytes is 134217728",
        ),
        (
            "[sandbox]\nmemory_reservation_bytes = 134217728\n[tasks.a]\nmemory_bytes = 134217729\n",
            "memory_reservation_bytes is 134217728, and tasks.a.memory_bytes is 134217729",
        ),
    ];
    for (text, part) in cases {
        let error = load(text, &[]).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn results_that_come_back_as_jobs_are_refused_and_the_circle_is_named() {
    let bare = "[defaults]\nresult_format = 'bare'\n";
    let cases = [
        ("[queues.a]\nresults = 'a'\n", "a → (queues.a.results) → a;"),
        (
            "[queues.a]\nresults = 'b'\n[queues.b]\nresults = 'c'\n[queues.c]\nresults = 'a'\n",
            "a → (queues.a.results) → b → (queues.b.results) → c → (queues.c.results) → a;",
        ),
        // By address, and by the address of another name.
        (
            "[queues.a]\naddress = 'x'\nresults = 'b'\n[queues.b]\nresults = 'x'\n",
            "→ b → (queues.b.results) → a;",
        ),
        ("[queues.a]\nresults = 'b'\n[queues.b]\naddress = 'a'\n", "a → (queues.a.results) → a;"),
        // A circle that the first queue only leads into.
        (
            "[queues.a]\nresults = 'b'\n[queues.b]\ndead_letters = 'c'\n[queues.c]\nresults = 'b'\n",
            "b → (queues.b.dead_letters) → c → (queues.c.results) → b;",
        ),
        ("[tasks.t]\nresults = 'b'\n[queues.a]\n[queues.b]\n", "b → (tasks.t.results) → b;"),
        ("[tasks.t]\nresults = 'default'\n", "default → (tasks.t.results) → default;"),
        // Another worker takes what this one does not.
        (
            "[worker]\nqueues = ['a']\n[queues.a]\nresults = 'b'\n[queues.b]\nresults = 'a'\n",
            "a → (queues.a.results) → b",
        ),
    ];
    for (text, circle) in cases {
        let error = load(&format!("{bare}{text}"), &[]).unwrap_err();
        assert!(error.contains("in a circle") && error.contains(circle), "{text}: {error}");
    }
    let error = load("[defaults]\nresults = 'b'\n[queues.a]\n[queues.b]\n", &[]).unwrap_err();
    assert!(error.contains("b → (defaults.results) → b;"), "{error}");
}

#[test]
fn bare_results_may_be_the_jobs_of_another_queue_and_envelopes_may_not() {
    let chain =
        "[queues.a]\nresults = 'b'\n[queues.b]\nresults = 'c'\n[queues.c]\nconsume = false\n";
    let error = load(chain, &[]).unwrap_err();
    assert!(error.contains("results of the queue `a` go to `b` as envelopes"), "{error}");
    assert!(error.contains("set queues.b.consume = false"), "{error}");
    let bare = [("LOVAGE__QUEUES__A__RESULT_FORMAT", "bare")];
    load(chain, &bare).unwrap();
    load(chain, &[("LOVAGE__QUEUES__B__CONSUME", "false")]).unwrap();
    load(chain, &[("LOVAGE__QUEUES__B__FORMAT", "raw")]).unwrap();
    // A task's own format stands over the queue's.
    let task = [("LOVAGE__TASKS__T__RESULT_FORMAT", "envelope"), bare[0]];
    assert!(load(chain, &task).unwrap_err().contains("as envelopes"));
}

#[test]
fn paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lovage.toml");
    std::fs::write(&file, "[components]\npaths = [\"tasks\"]\n").unwrap();
    let config = Config::load(Some(&file), []).unwrap();
    assert_eq!(config.components.paths, [folder.path().join("tasks")]);
    assert_eq!(config.broker.path, folder.path().join("lovage.db"));
}

/// The names of a section's fields, which serde lists when it refuses a name.
fn fields_of<'de, T: Deserialize<'de>>() -> Vec<String> {
    let deserializer = toml::de::Deserializer::parse("'?' = 1").unwrap();
    let error = T::deserialize(deserializer).err().unwrap().message().to_owned();
    error.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}

#[test]
fn the_sample_shows_every_field_and_is_valid() {
    let sample = include_str!("../../../../lovage.sample.toml");
    load(sample, &[]).unwrap();
    // What is commented out by a single `#` without a space is a setting, too.
    let full: String = sample
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line)
        })
        .fold(String::new(), |all, line| all + line + "\n");
    load(&full, &[]).unwrap();
    let table: toml::Table = full.parse().unwrap();
    let section = |path: &[&str]| {
        let mut value = toml::Value::Table(table.clone());
        for key in path {
            value = value[*key].clone();
        }
        let keys = |value: &toml::Value| -> Vec<String> {
            value.as_table().unwrap().keys().cloned().collect()
        };
        // A secret has its value in one place: it takes several to show them all.
        match path {
            ["secrets"] => value.as_table().unwrap().values().flat_map(keys).collect(),
            _ => keys(&value),
        }
    };
    // One component cannot have all tasks.
    let mut defaults = fields_of::<TaskConfig>();
    defaults.retain(|field| field != "component");
    let wanted: [(&[&str], Vec<String>); 20] = [
        (&[], fields_of::<Config>()),
        (&["broker"], fields_of::<BrokerConfig>()),
        (&["worker"], fields_of::<WorkerConfig>()),
        (&["components"], fields_of::<ComponentsConfig>()),
        (&["sandbox"], fields_of::<SandboxConfig>()),
        (&["components", "canary"], fields_of::<CanaryConfig>()),
        (&["defaults"], defaults),
        (&["tasks", "process_data"], vec!["component".to_owned()]),
        (&["tasks", "process_data", "grants"], fields_of::<GrantsConfig>()),
        (&["tenants", "acme", "limits"], fields_of::<TenantLimits>()),
        (&["tenants", "acme", "grants"], fields_of::<GrantsConfig>()),
        (&["secrets"], fields_of::<SecretConfig>()),
        (&["keyvalue"], fields_of::<KeyValueConfig>()),
        (&["celery"], fields_of::<CeleryConfig>()),
        (&["tasks", "process_data", "celery"], fields_of::<TaskCeleryConfig>()),
        (&["queues", "jobs"], fields_of::<QueueConfig>()),
        (&["tenants", "acme"], fields_of::<TenantConfig>()),
        (&["dispatch"], fields_of::<DispatchConfig>()),
        (&["lambda"], fields_of::<LambdaConfig>()),
        (&["log"], fields_of::<LogConfig>()),
    ];
    for (path, fields) in wanted {
        assert!(!fields.is_empty());
        let shown = section(path);
        let missing: Vec<_> = fields.iter().filter(|field| !shown.contains(field)).collect();
        assert!(missing.is_empty(), "[{}] lacks {missing:?}", path.join("."));
    }
}

#[test]
fn what_would_hold_for_no_tenant_is_refused() {
    let check =
        |text: &str| parse(text)?.validate("lovage.toml").map_err(|error| error.to_string());
    for (text, words) in [
        ("[tenants.a]\nrate_per_second = 0.0\n", "tenants.a.rate_per_second is 0"),
        ("[tenants.a]\nrate_per_second = nan\n", "it takes 0.001 to 1000000"),
        ("[tenants.a]\nrate_per_second = -1.0\n", "tenants.a.rate_per_second is -1"),
        ("[tenants.a]\nburst = 3\n", "without a rate"),
        ("[tenants.a]\nrate_per_second = 1.0\nburst = 4000000000\n", "at most 1000000"),
        ("[tenants.a]\nconcurrency = 100000\n", "tenants.a.concurrency is 100000"),
        ("[tenants.\"a\\u0000\"]\n", "is no name for a tenant"),
        ("[queues.q]\ntenant_from = ['body', 'body']\n", "names `body` twice"),
        ("[queues.q]\ntenant = 'a'\ntenant_from = ['body']\n", "add `queue`, or leave it out"),
        ("[queues.q]\ntenant_required = true\ntenant_from = []\n", "every job would be rejected"),
        ("[queues.q]\ntenant_from = ['sender']\n", "unknown variant `sender`"),
    ] {
        let error = check(text).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let fine = "[tenants.a]\nrate_per_second = 0.5\nburst = 3\n[queues.q]\ntenant_from = []\n";
    check(fine).unwrap();
}

#[test]
fn a_variable_is_a_text_where_the_field_takes_one_and_a_number_where_it_takes_that() {
    let base = Config::parse("[queues.jobs]\n[tasks.a]\n", "test").unwrap();
    let with = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        base.clone().with_environment(variables)
    };
    for text in ["42", "true", "4_2", "1e3", "2024-01-01", "inf", "0x10", "[1]", "{ a = 1 }", "007"]
    {
        let config = with(&[
            ("LOVAGE__QUEUES__JOBS__TENANT", text),
            ("LOVAGE__QUEUES__JOBS__DEFAULT_TASK", text),
            ("LOVAGE__QUEUES__JOBS__ADDRESS", text),
            ("LOVAGE__BROKER__PATH", text),
            ("LOVAGE__LOG__LEVEL", text),
        ]);
        let config = config.unwrap();
        let jobs = &config.queues["jobs"];
        assert_eq!(jobs.tenant.as_deref(), Some(text));
        assert_eq!(jobs.default_task.as_deref(), Some(text));
        assert_eq!(jobs.address.as_deref(), Some(text));
        assert_eq!((config.broker.path.to_str(), &*config.log.level), (Some(text), text));
    }
    let config = with(&[
        ("LOVAGE__WORKER__CONCURRENCY", "8\n"),
        ("LOVAGE__QUEUES__JOBS__CONSUME", "false"),
        ("LOVAGE__QUEUES__JOBS__REPLY_TO", "[42, \"a\"]"),
        ("LOVAGE__QUEUES__JOBS__TENANT", "\"quoted\""),
    ]);
    let config = config.unwrap();
    let jobs = &config.queues["jobs"];
    assert_eq!((config.worker.concurrency.get(), jobs.consume), (8, false));
    assert_eq!(jobs.reply_to, ["42", "a"]);
    assert_eq!(jobs.tenant.as_deref(), Some("quoted"));
    let error = with(&[("LOVAGE__WORKER__CONCURRENCY", "-1")]).unwrap_err().to_string();
    assert!(error.contains("LOVAGE__WORKER__CONCURRENCY") && error.contains("-1"), "{error}");
}
