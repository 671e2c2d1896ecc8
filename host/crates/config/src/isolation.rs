//! Which attempts run in processes of their own.

use serde::{Deserialize, Serialize};

/// `[isolation]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IsolationConfig {
    /// How many attempts may run in processes of their own at once; more wait. 0 turns it off.
    pub processes: u32,
    /// The tasks whose attempts do; `*` at the end matches any rest. All, where neither tasks nor
    /// tenants are named.
    pub tasks: Vec<String>,
    /// The tenants whose attempts do, whatever the task; `*` at the end matches any rest.
    pub tenants: Vec<String>,
}

impl IsolationConfig {
    /// True where a job's attempts run in processes of their own. A configuration that names
    /// neither tasks nor tenants means all.
    pub fn applies(&self, task: &str, tenant: &str) -> bool {
        let named = |patterns: &[String], name: &str| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => pattern == name,
            })
        };
        let all = self.tasks.is_empty() && self.tenants.is_empty();
        self.processes > 0 && (all || named(&self.tasks, task) || named(&self.tenants, tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_tasks_and_tenants_are_isolated_and_without_names_all() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let some = IsolationConfig {
            processes: 2,
            tasks: names(&["untrusted-*", "resize"]),
            tenants: names(&["acme"]),
        };
        assert!(some.applies("untrusted-x", "") && some.applies("resize", "other"));
        assert!(some.applies("echo", "acme"));
        assert!(!some.applies("echo", "acme2") && !some.applies("untrusted", ""));
        let all = IsolationConfig { processes: 1, ..IsolationConfig::default() };
        assert!(all.applies("echo", ""));
        assert!(!IsolationConfig::default().applies("echo", ""));
    }
}
