//! A cluster as facts for the core, from its API server: one list of each kind that the operator watches.

use std::path::Path;

use anyhow::bail;
use duosuan_controller::{
    clock::Clock,
    lean::{self, Object},
    site::Site,
    watch::{EachKind, Fact, Reading, Watched, each_kind},
};
use duosuan_planner::budgets::Budget;
use kube::Resource;

use super::{
    Objects,
    budget::{self, DisruptionBudget},
};
use crate::server::{self, Listed, Server};

/// Reads a cluster from its API server, for an operator that is told this of it. Nothing is written.
///
/// # Errors
///
/// If there is no way to the API server, or it refuses.
pub(crate) fn from_server(kubeconfig: Option<&Path>, site: &Site) -> anyhow::Result<Objects> {
    server::wait(read(kubeconfig, site))
}

async fn read(kubeconfig: Option<&Path>, site: &Site) -> anyhow::Result<Objects> {
    let mut lists = Lists {
        server: Server::connect(kubeconfig).await?,
        scheduler_name: &site.scheduler_name,
        facts: Vec::new(),
        reports: false,
        remarks: Vec::new(),
    };
    each_kind(&mut lists).await?;
    let mut objects = Objects {
        now: Clock::default().now(),
        ..Objects::default()
    };
    objects.disruption.budgets = lists.budgets().await?;
    objects.remarks = lists.remarks;
    objects.take(lists.facts, lists.reports, site);
    Ok(objects)
}

struct Lists<'a> {
    server: Server,
    scheduler_name: &'a str,
    facts: Vec<Fact>,
    /// The API server knows reports.
    reports: bool,
    remarks: Vec<String>,
}

impl EachKind for Lists<'_> {
    type Error = anyhow::Error;

    async fn with<K: Watched>(&mut self) -> anyhow::Result<()> {
        let kind = K::Read::plural(&None);
        let mut older = None;
        let mut listed = self.server.list_as::<K::Read>(&older).await?;
        for version in K::OLDER {
            if !matches!(listed, Listed::Unserved) {
                break;
            }
            older = Some(*version);
            listed = self.server.list_as::<K::Read>(&older).await?;
        }
        let objects = match listed {
            Listed::All(objects) => objects,
            Listed::Unserved if !K::GROUP.is_empty() => {
                if !K::OPTIONAL {
                    self.remarks.push(format!("the API server does not serve {kind}"));
                }
                return Ok(());
            }
            Listed::Refused(_) if K::OPTIONAL => return Ok(()),
            Listed::Unserved => bail!("{} does not serve {kind}: is it an API server?", self.server.url()),
            Listed::Refused(why) => bail!(why),
        };
        let reading = Reading {
            scheduler_name: self.scheduler_name,
            older,
        };
        self.reports |= K::KIND == lean::Report::KIND;
        for object in objects {
            let name = object.meta().name.clone().unwrap_or_default();
            match K::fact(object, reading) {
                Ok(fact) => self.facts.push(fact),
                // As the operator does, which goes on without it.
                Err(error) => self
                    .remarks
                    .push(format!("{} {name} cannot be understood: {error}", K::KIND)),
            }
        }
        Ok(())
    }
}

impl Lists<'_> {
    /// Disruption budgets; none, with a word of that, if this user may not see them.
    async fn budgets(&mut self) -> anyhow::Result<Vec<Budget>> {
        let mut budgets = Vec::new();
        let Listed::All(objects) = self.server.list::<Object<DisruptionBudget>>().await? else {
            let words = "the API server does not show poddisruptionbudgets: every eviction is taken to be allowed";
            self.remarks.push(words.to_owned());
            return Ok(budgets);
        };
        for object in objects {
            let name = object.meta().name.clone().unwrap_or_default();
            match budget::read(object) {
                Ok(budget) => budgets.push(budget),
                Err(error) => self
                    .remarks
                    .push(format!("PodDisruptionBudget {name} cannot be understood: {error}")),
            }
        }
        Ok(budgets)
    }
}
