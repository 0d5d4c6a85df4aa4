//! A cluster as facts for the core, from its API server: one list of each kind that the operator watches.

use std::{fmt::Debug, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use duosuan_controller::{
    Options,
    clock::Clock,
    connect,
    lean::{self, Object},
    watch::{EachKind, Fact, Watched, each_kind},
};
use duosuan_planner::budgets::Budget;
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    Objects,
    budget::{self, DisruptionBudget},
};

/// How long one list may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Objects in one answer.
const PAGE: u32 = 500;

/// Reads a cluster from its API server, for a scheduler of this name. Nothing is written.
///
/// # Errors
///
/// If there is no way to the API server, or it refuses.
pub(crate) fn from_server(kubeconfig: Option<&Path>, scheduler_name: &str) -> anyhow::Result<Objects> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(read(kubeconfig, scheduler_name))
}

async fn read(kubeconfig: Option<&Path>, scheduler_name: &str) -> anyhow::Result<Objects> {
    let options = Options {
        kubeconfig: kubeconfig.map(Path::to_owned),
        ..Options::default()
    };
    let config = connect::config(&options).await?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).with_context(|| format!("use the way to {server}"))?;
    let mut lists = Lists {
        client,
        server,
        scheduler_name,
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
    objects.take(lists.facts, lists.reports);
    Ok(objects)
}

struct Lists<'a> {
    client: Client,
    server: String,
    scheduler_name: &'a str,
    facts: Vec<Fact>,
    /// The API server knows reports.
    reports: bool,
    remarks: Vec<String>,
}

/// What came of asking for all objects of a kind.
enum Listed<T> {
    All(Vec<T>),
    /// The API server does not know the kind.
    Unserved,
    /// These credentials do not suffice; what the API server said.
    Refused(String),
}

impl EachKind for Lists<'_> {
    type Error = anyhow::Error;

    async fn with<K: Watched>(&mut self) -> anyhow::Result<()> {
        let api: Api<K::Read> = Api::all_with(self.client.clone(), &());
        let kind = K::Read::plural(&());
        let objects = match self.list(api).await? {
            Listed::All(objects) => objects,
            Listed::Unserved if !K::GROUP.is_empty() => {
                if !K::OPTIONAL {
                    self.remarks.push(format!("the API server does not serve {kind}"));
                }
                return Ok(());
            }
            Listed::Refused(_) if K::OPTIONAL => return Ok(()),
            Listed::Unserved => bail!("{} does not serve {kind}: is it an API server?", self.server),
            Listed::Refused(why) => bail!(
                "the API server {} refuses to list {kind} ({why}): use credentials that may",
                self.server
            ),
        };
        self.reports |= K::KIND == lean::Report::KIND;
        for object in objects {
            let name = object.meta().name.clone().unwrap_or_default();
            match K::fact(object, self.scheduler_name) {
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
        let api: Api<Object<DisruptionBudget>> = Api::all_with(self.client.clone(), &());
        let mut budgets = Vec::new();
        let Listed::All(objects) = self.list(api).await? else {
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

    /// All objects of a kind.
    async fn list<T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(
        &self,
        api: Api<T>,
    ) -> anyhow::Result<Listed<T>> {
        let mut objects = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let answer = tokio::time::timeout(ANSWER, api.list(&page)).await;
            let server = &self.server;
            let list = match answer {
                Err(_) => bail!("the API server {server} does not answer within {} s", ANSWER.as_secs()),
                Ok(Ok(list)) => list,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(Listed::Unserved),
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                    return Ok(Listed::Refused(status.message));
                }
                Ok(Err(error)) => {
                    let kind = T::plural(&());
                    return Err(anyhow!(error)).with_context(|| format!("cannot list {kind} of {server}"));
                }
            };
            objects.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(Listed::All(objects)),
            }
        }
    }
}
