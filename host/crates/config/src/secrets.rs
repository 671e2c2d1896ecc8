//! What is checked of secrets and of the key-value store.

use super::password::without_password;
use super::{Config, KeyValueKind, RedisUrl, SecretConfig};
use lovage_policy::HttpPolicy;

/// The longest that a value is used, in milliseconds: a day, so that a secret that was changed is
/// noticed some day.
const MAX_TTL_MS: u64 = 24 * 60 * 60 * 1000;

/// The longest that one key-value operation may take, in milliseconds: an hour, as a job.
const MAX_TIMEOUT_MS: u64 = 60 * 60 * 1000;

/// The longest name of a bucket, in bytes.
const MAX_BUCKET_BYTES: usize = 200;

impl Config {
    pub(super) fn check_secrets(&self) -> Result<(), String> {
        self.secrets.iter().try_for_each(|(name, secret)| check(name, secret))
    }

    pub(super) fn check_keyvalue(&self) -> Result<(), String> {
        let keyvalue = &self.keyvalue;
        match (keyvalue.kind, &keyvalue.url) {
            (KeyValueKind::Local, _) => {}
            (KeyValueKind::Redis, Some(url)) => {
                RedisUrl::parse(url).map(drop).map_err(|why| format!("keyvalue.url is {why}"))?;
            }
            (KeyValueKind::Redis, None) => {
                return Err(
                    "keyvalue.kind is `redis`, and there is no keyvalue.url; set it, such \
                            as redis://127.0.0.1:6379, or LOVAGE__KEYVALUE__URL where it holds a \
                            password"
                        .to_owned(),
                );
            }
        }
        if keyvalue.timeout_ms.get() > MAX_TIMEOUT_MS {
            return Err(format!(
                "keyvalue.timeout_ms is {}; at most {MAX_TIMEOUT_MS} (an hour)",
                keyvalue.timeout_ms
            ));
        }
        let tenants = self.tenants.iter().map(|(name, it)| (format!("tenants.{name}"), &it.grants));
        let tasks = self.tasks.iter().map(|(name, it)| (format!("tasks.{name}"), &it.grants));
        let all = [("defaults".to_owned(), &self.defaults.grants)];
        for (section, grants) in all.into_iter().chain(tasks).chain(tenants) {
            let wrong = |name: &&String| name.is_empty() || name.len() > MAX_BUCKET_BYTES;
            if let Some(name) = grants.keyvalue.iter().flatten().find(wrong) {
                return Err(format!(
                    "{section}.grants.keyvalue names a bucket of {} bytes; a name has 1 to \
                     {MAX_BUCKET_BYTES}",
                    name.len()
                ));
            }
        }
        Ok(())
    }

    /// Returns true if any task is granted a bucket.
    pub fn grants_buckets(&self) -> bool {
        self.tasks
            .values()
            .chain([&self.defaults])
            .any(|task| task.grants.keyvalue.as_ref().is_some_and(|names| !names.is_empty()))
    }

    /// The configuration as it may be shown: without passwords.
    #[must_use]
    pub fn without_passwords(mut self) -> Self {
        for url in [&mut self.keyvalue.url, &mut self.celery.result_backend] {
            *url = url.as_deref().map(without_password);
        }
        self
    }
}

fn check(name: &str, secret: &SecretConfig) -> Result<(), String> {
    let sources = [
        ("env", secret.env.as_deref()),
        ("file", secret.file.as_ref().map(|path| path.to_str().unwrap_or("?"))),
        ("secrets_manager", secret.secrets_manager.as_deref()),
        ("parameter", secret.parameter.as_deref()),
    ];
    let named: Vec<_> = sources.iter().filter_map(|(field, it)| Some((*field, (*it)?))).collect();
    match named.as_slice() {
        [(field, "")] => {
            return Err(format!("secrets.{name}.{field} is empty; say where the value is"));
        }
        [_] => {}
        [] => {
            return Err(format!(
                "secrets.{name} does not say where its value is; set one of env, file, \
                 secrets_manager and parameter"
            ));
        }
        several => {
            let several: Vec<_> = several.iter().map(|(field, _)| *field).collect();
            return Err(format!(
                "secrets.{name} has {}, and its value can be in one place only; leave one",
                several.join(" and ")
            ));
        }
    }
    if let Some(ttl) = secret.ttl_ms
        && ttl.get() > MAX_TTL_MS
    {
        return Err(format!("secrets.{name}.ttl_ms is {ttl}; at most {MAX_TTL_MS} (a day)"));
    }
    if let Some(rules) = &secret.only_for {
        let key = format!("secrets.{name}.only_for");
        if rules.is_empty() {
            return Err(format!(
                "{key} is empty, so that no request could ever have the value; name where it may \
                 go, or leave it out for guests to have it"
            ));
        }
        HttpPolicy::new(rules, &key, &[], &key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Config::parse(text, "test").unwrap().validate("test").unwrap_err().to_string()
    }

    #[test]
    fn a_secret_has_its_value_in_exactly_one_place() {
        for (text, words) in [
            ("", "secrets.s does not say where its value is; set one of env, file"),
            ("env = 'A'\nparameter = 'b'", "secrets.s has env and parameter, and"),
            ("env = ''", "secrets.s.env is empty"),
            ("env = 'A'\nttl_ms = 86400001", "secrets.s.ttl_ms is 86400001; at most 86400000"),
            ("env = 'A'\nonly_for = []", "secrets.s.only_for is empty"),
        ] {
            let error = wrong(&format!("[secrets.s]\n{text}\n"));
            assert!(error.contains(words), "{text}: {error}");
        }
        let right = "[secrets.s]\nfile = '/a'\nonly_for = ['https://a.example']\n";
        Config::parse(right, "test").unwrap().validate("test").unwrap();
    }

    #[test]
    fn a_key_value_store_says_where_it_is_and_names_its_buckets() {
        let error = wrong("[keyvalue]\nkind = 'redis'");
        assert!(error.contains("there is no keyvalue.url"), "{error}");
        let error = wrong("[keyvalue]\nkind = 'redis'\nurl = 'http://u:hunter2@h'");
        assert!(error.contains("keyvalue.url is no URL of Redis"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let error = wrong("[defaults.grants]\nkeyvalue = ['a', '']");
        assert!(error.contains("defaults.grants.keyvalue names a bucket of 0 bytes"), "{error}");
        let error = wrong("[keyvalue]\ntimeout_ms = 3600001");
        assert!(error.contains("keyvalue.timeout_ms is 3600001"), "{error}");
    }

    #[test]
    fn a_configuration_is_shown_without_passwords() {
        for (url, shown) in [
            ("redis://h:1", "redis://h:1"),
            ("redis://u@h", "redis://u@h"),
            ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
            ("rediss://u:hun:ter@2@h?x=@y", "rediss://u:***@h?x=@y"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(url), shown);
        }
        let text = "[keyvalue]\nkind = 'redis'\nurl = 'redis://u:hunter2@h'";
        let config = Config::parse(text, "test").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let shown = toml::to_string(&config.without_passwords()).unwrap();
        assert!(shown.contains("redis://u:***@h"), "{shown}");
    }
}
