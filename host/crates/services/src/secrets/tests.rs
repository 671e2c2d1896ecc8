use super::*;

fn secrets(text: &str) -> Secrets {
    Secrets::new(&lovage_config::Config::parse(text, "test").unwrap().secrets)
}

#[tokio::test]
async fn a_file_is_read_without_the_newline_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (content, value) in [
        ("hunter2", "hunter2"),
        ("hunter2\n", "hunter2"),
        ("hunter2\r\n", "hunter2"),
        ("two\nlines\n\n", "two\nlines\n"),
        (" spaces ", " spaces "),
    ] {
        let file = dir.path().join("secret");
        std::fs::write(&file, content).unwrap();
        let secrets = secrets(&format!("[secrets.s]\nfile = '{}'", file.display()));
        assert_eq!(secrets.get("s").await.unwrap().value.expose(), value, "{content:?}");
    }
}

#[test]
fn a_variable_is_read_without_the_newline_at_its_end() {
    for (value, read) in [("hunter2\n", "hunter2"), ("hunter2\r\n", "hunter2"), ("a\n\n", "a\n")] {
        assert_eq!(source::without_newline(value.to_owned()), read, "{value:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_told_with_name_source_reason_and_advice() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("binary"), b"hunter2\xff").unwrap();
    std::fs::write(path("large"), "hunter2".repeat(10_000)).unwrap();
    std::fs::write(path("empty"), "\n").unwrap();
    std::fs::write(path("json"), r#"{"a": "hunter2"}"#).unwrap();
    let text = format!(
        "[secrets.env]\nenv = 'LOVAGE_TEST_IS_NOT_SET'\n\
         [secrets.missing]\nfile = '{0}/missing'\n\
         [secrets.binary]\nfile = '{0}/binary'\n\
         [secrets.large]\nfile = '{0}/large'\n\
         [secrets.empty]\nfile = '{0}/empty'\n\
         [secrets.field]\nfile = '{0}/json'\njson_field = 'b'\n",
        dir.path().display()
    );
    let secrets = secrets(&text);
    for (name, words) in [
        ("env", "from the environment variable `LOVAGE_TEST_IS_NOT_SET`: it is not set; set it"),
        ("missing", "/missing: No such file"),
        ("binary", "/binary: it is no UTF-8; "),
        ("large", "/large: it has more than 65536 bytes; "),
        ("empty", "/empty: the value is empty; "),
        ("field", "/json: the value has no field `b`; "),
        ("unknown", "from the configuration: it is not there; add [secrets.unknown]"),
    ] {
        let error = secrets.get(name).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot have the secret `{name}` from ")), "{text}");
        assert!(text.contains(words), "{text}");
        assert_eq!(error.trouble, Trouble::Wrong);
        assert!(!format!("{text} {error:?} {secrets:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_value_is_kept_for_its_time_and_then_looked_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let config = |ttl_ms: u64| {
        secrets(&format!("[secrets.s]\nfile = '{}'\nttl_ms = {ttl_ms}", file.display()))
    };
    let value = async |secrets: &Secrets| secrets.get("s").await.unwrap().value.expose().to_owned();
    std::fs::write(&file, "first").unwrap();
    let (long, short) = (config(3_600_000), config(1));
    assert_eq!((value(&long).await, value(&short).await), ("first".into(), "first".into()));
    std::fs::write(&file, "second").unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!((value(&long).await, value(&short).await), ("first".into(), "second".into()));
    // A file that is gone is a secret that was taken away.
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(value(&long).await, "first");
    assert!(short.get("s").await.is_err());
}
