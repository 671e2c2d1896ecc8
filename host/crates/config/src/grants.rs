//! The grants of a configuration, as [`Policies`] takes them.

use super::Config;
use lovage_policy::{GrantBook, Grants, Policies};

impl Config {
    /// What a task is granted for a tenant; empty for jobs without one. The error names the field
    /// that is wrong.
    pub fn grants_of(&self, task: &str, tenant: &str) -> Result<Grants, String> {
        GrantBook::from(self).grants_of(task, tenant)
    }

    pub(super) fn check_grants(&self) -> Result<(), String> {
        Policies::check(&GrantBook::from(self))
    }
}

impl From<&Config> for GrantBook {
    fn from(config: &Config) -> Self {
        let tasks = config.tasks.iter().map(|(name, task)| (name.clone(), task.grants.clone()));
        let tenants = config.tenants.iter().map(|(name, it)| (name.clone(), it.grants.clone()));
        Self {
            defaults: config.defaults.grants.clone(),
            tasks: tasks.collect(),
            tenants: tenants.collect(),
            secrets: config.secrets.keys().cloned().collect(),
        }
    }
}
