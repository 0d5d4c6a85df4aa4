//! A cluster as facts for the core, from its API server: one list of each kind that the operator watches.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use duosuan_controller::{
    Options,
    clock::Clock,
    connect, lean,
    watch::{Fact, Watched},
};
use kube::{Api, Client, Resource, api::ListParams};

use super::Objects;

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
        remarks: Vec::new(),
    };
    lists.list::<lean::Node>().await?;
    lists.list::<lean::Queue>().await?;
    lists.list::<lean::Policy>().await?;
    let reports = lists.list::<lean::Report>().await?;
    lists.list::<lean::Claim>().await?;
    lists.list::<lean::Namespace>().await?;
    lists.list::<lean::StorageClass>().await?;
    lists.list::<lean::Volume>().await?;
    lists.list::<lean::VolumeClaim>().await?;
    lists.list::<lean::CsiNode>().await?;
    lists.list::<lean::Pod>().await?;
    let mut objects = Objects {
        now: Clock::default().now(),
        remarks: lists.remarks,
        ..Objects::default()
    };
    objects.take(lists.facts, reports);
    Ok(objects)
}

struct Lists<'a> {
    client: Client,
    server: String,
    scheduler_name: &'a str,
    facts: Vec<Fact>,
    remarks: Vec<String>,
}

impl Lists<'_> {
    /// Takes in all objects of a kind. False if the API server does not know the kind.
    async fn list<K: Watched>(&mut self) -> anyhow::Result<bool> {
        let api: Api<K::Read> = Api::all_with(self.client.clone(), &());
        let kind = K::Read::plural(&());
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let answer = tokio::time::timeout(ANSWER, api.list(&page)).await;
            let server = &self.server;
            let list = match answer {
                Err(_) => bail!("the API server {server} does not answer within {} s", ANSWER.as_secs()),
                Ok(Ok(list)) => list,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 && !K::GROUP.is_empty() => {
                    self.remarks.push(format!("the API server does not serve {kind}"));
                    return Ok(false);
                }
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => bail!(
                    "the API server {server} refuses to list {kind} ({}): use credentials that may",
                    status.message
                ),
                Ok(Err(error)) => {
                    return Err(anyhow!(error)).with_context(|| format!("cannot list {kind} of {server}"));
                }
            };
            for object in list.items {
                let name = object.meta().name.clone().unwrap_or_default();
                match K::fact(object, self.scheduler_name) {
                    Ok(fact) => self.facts.push(fact),
                    // As the operator does, which goes on without it.
                    Err(error) => self
                        .remarks
                        .push(format!("{} {name} cannot be understood: {error}", K::KIND)),
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(true),
            }
        }
    }
}
