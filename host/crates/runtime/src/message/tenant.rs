//! Whose job it is, and whom a queue believes about that.
//!
//! A message can name its tenant in several places, and whoever may send can write what he likes
//! into most of them. So the queue's settings list the places that are believed, and the first of
//! them that names somebody decides. What other places say must agree: a message that names two
//! tenants is rejected, never guessed at, since it could otherwise be scheduled as one tenant's
//! and run as another's. Only the queue's own `tenant` is no statement but a fallback: it holds
//! where no place before it in the list names anybody.

use lovage_core::{
    broker::{Message, attribute},
    group_id,
    tenant_source::TenantSource,
    text::one_line,
};

/// The failure's kind where a message names a tenant that it may not.
pub const MISMATCH: &str = "tenant_mismatch";

/// The failure's kind where a message names no tenant and has to.
pub const REQUIRED: &str = "tenant_required";

/// The place of a tenant that is named by `Lovage-Tenant` or the like.
const MISSPELT: &str = "a message attribute that is `lovage-tenant` but for its case";

/// How much of a tenant's name a reason shows, in bytes.
const SHOWN_BYTES: usize = 200;

/// Whom a queue believes about its jobs' tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The places that are believed; the first that names somebody decides.
    pub from: Vec<TenantSource>,
    /// True if jobs without a tenant are rejected.
    pub required: bool,
}

impl Default for Trust {
    fn default() -> Self {
        Self { from: TenantSource::ALL.to_vec(), required: false }
    }
}

/// Why a message's tenant is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub kind: &'static str,
    pub reason: String,
}

/// What a message says of its tenant.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    /// Where it says so (`None`: in a place that is never believed), and whom it names.
    said: Vec<(Option<TenantSource>, &'a str)>,
}

impl<'a> Claims<'a> {
    /// All that `message` says: its `body`, its attributes, and its group, unless that is a mere
    /// order. An empty name says nothing.
    pub fn of(message: &'a Message, body: &'a str, fifo: bool) -> Self {
        // One attribute may differ from another in nothing but its case. Only the name as it is
        // written here is believed; another spelling has to agree.
        let attributes = message.attributes.iter().filter_map(|(name, value)| {
            let ours = name.eq_ignore_ascii_case(attribute::TENANT);
            let exact = name == attribute::TENANT;
            ours.then_some((exact.then_some(TenantSource::Attribute), value.as_str()))
        });
        let group = message.group.as_deref().filter(|_| !fifo);
        let said = [(Some(TenantSource::Body), body)]
            .into_iter()
            .chain(attributes)
            .chain(group.map(|group| (Some(TenantSource::Group), group)))
            .filter(|(_, tenant)| !tenant.is_empty())
            .collect();
        Self { said }
    }

    /// The tenant by those that are believed (empty: none), and what speaks against the message.
    /// The first holds even where something does: the rejection must be told to somebody.
    pub fn judge(&self, trust: &Trust, queue: Option<&str>) -> (String, Result<(), Refusal>) {
        let decided = trust.from.iter().find_map(|source| match source {
            TenantSource::Queue => queue.map(|tenant| (*source, tenant)),
            TenantSource::Body | TenantSource::Attribute | TenantSource::Group => {
                let said = self.said.iter().find(|(said, _)| *said == Some(*source));
                said.map(|(_, name)| (*source, *name))
            }
        });
        let Some((source, tenant)) = decided.filter(|(_, tenant)| !tenant.is_empty()) else {
            return (String::new(), self.nobody(trust));
        };
        // SQS takes not every name for a group. What stands for one agrees with the name itself,
        // wherever that is said, and the job is for the name.
        let tenant = match source {
            TenantSource::Group => self
                .said
                .iter()
                .map(|(_, name)| *name)
                .find(|name| *name != tenant && group_id::is_of_tenant(tenant, name))
                .unwrap_or(tenant),
            _ => tenant,
        };
        let agrees = |(said, name): &(Option<TenantSource>, &str)| {
            *name == tenant
                || (*said == Some(TenantSource::Group) && group_id::is_of_tenant(name, tenant))
        };
        let verdict = match self.said.iter().find(|claim| !agrees(claim)) {
            None => Ok(()),
            Some((other, name)) => Err(mismatch(trust, *other, name, Some((source, tenant)))),
        };
        (tenant.to_owned(), verdict)
    }

    /// Returns true if a message may do without a tenant.
    fn nobody(&self, trust: &Trust) -> Result<(), Refusal> {
        if let Some((source, name)) = self.said.first() {
            return Err(mismatch(trust, *source, name, None));
        }
        if !trust.required {
            return Ok(());
        }
        Err(Refusal {
            kind: REQUIRED,
            reason: format!(
                "no tenant is named, and the queue's `tenant_required` asks for one; name it in a \
                 place that its `tenant_from` lists ({})",
                listed(trust)
            ),
        })
    }
}

fn mismatch(
    trust: &Trust,
    source: Option<TenantSource>,
    name: &str,
    decided: Option<(TenantSource, &str)>,
) -> Refusal {
    let place = source.map_or(MISSPELT, TenantSource::place);
    let name = one_line(name, SHOWN_BYTES);
    let believed = source.is_some_and(|source| trust.from.contains(&source));
    let says = if believed { "" } else { ", which is not believed on this queue" };
    let whose = decided.map_or_else(
        || "no place that is believed names any".to_owned(),
        |(first, tenant)| {
            format!("by {} the job is for `{}`", first.place(), one_line(tenant, SHOWN_BYTES))
        },
    );
    Refusal {
        kind: MISMATCH,
        reason: format!(
            "{place} names tenant `{name}`{says}, and {whose}; name one tenant, in a place that \
             the queue's `tenant_from` lists ({})",
            listed(trust)
        ),
    }
}

fn listed(trust: &Trust) -> String {
    if trust.from.is_empty() {
        return "none".to_owned();
    }
    trust.from.iter().map(|source| source.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
