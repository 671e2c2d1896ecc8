//! What is known of a component whose code is not in memory.

use serde::{Deserialize, Serialize};

use super::bindings::SERVED;
use super::code::{Held, Reload};
use super::component::{Import, LoadedComponent, Source, reads_config};
use super::payload_check::Unchecked;
use super::spec::{self, TaskSpec};
use super::state::{Offer, offer};
use super::typed::{self, NoTask};

/// What was found out about a component when it was loaded, so that it need not be loaded to be
/// known. Only for who trusts where it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentMetadata {
    contract: String,
    tasks: Vec<TaskSpec>,
    /// The names of what it imports.
    imports: Vec<String>,
    exports: Vec<String>,
    others: Vec<NoTask>,
    unchecked: Vec<Unchecked>,
}

impl LoadedComponent {
    /// What is known of it.
    pub fn metadata(&self) -> ComponentMetadata {
        ComponentMetadata {
            contract: self.contract.to_owned(),
            tasks: self.tasks.clone(),
            imports: self.imports.iter().map(|import| import.name.clone()).collect(),
            exports: self.exports.clone(),
            others: self.others.clone(),
            unchecked: self.unchecked.clone(),
        }
    }

    /// The component of which that was found out, whose code is loaded when the first job needs it.
    /// `None` where these facts are those of another version of this program.
    pub fn of_metadata(
        source: Source,
        metadata: ComponentMetadata,
        reload: Box<dyn Reload>,
    ) -> Option<Self> {
        let mut contracts = SERVED.iter().copied().chain([typed::CONTRACT]);
        let contract = contracts.find(|contract| *contract == metadata.contract)?;
        spec::check(&metadata.tasks).ok()?;
        // It was loaded, so all is offered.
        let imports = metadata.imports.into_iter().map(|name| Import {
            needs: offer(&name).and_then(Offer::needs),
            name,
            offered: true,
        });
        let imports: Vec<_> = imports.collect();
        Some(Self {
            source,
            contract,
            reads_config: reads_config(&imports),
            held: Held::while_used(None, reload),
            tasks: metadata.tasks,
            imports,
            exports: metadata.exports,
            others: metadata.others,
            unchecked: metadata.unchecked,
        })
    }
}
