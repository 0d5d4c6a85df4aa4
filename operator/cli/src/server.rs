//! An API server, read only: whole lists of objects.

use std::{fmt::Debug, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use duosuan_controller::{Options, connect};
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Objects in one answer.
const PAGE: u32 = 500;

/// An API server.
pub(crate) struct Server {
    client: Client,
    /// Where it is.
    url: String,
}

/// What came of asking for all objects of a kind.
pub(crate) enum Listed<T> {
    All(Vec<T>),
    /// The API server does not know the kind.
    Unserved,
    /// These credentials do not suffice: says what the API server said, and what to do.
    Refused(String),
}

/// Runs what talks to an API server to its end.
///
/// # Errors
///
/// What `work` says, or if no thread can wait for it.
pub(crate) fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

impl Server {
    /// The API server that a kubeconfig names; without one, the one that kubectl would use.
    ///
    /// # Errors
    ///
    /// If there is no way to it.
    pub(crate) async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let options = Options {
            kubeconfig: kubeconfig.map(Path::to_owned),
            ..Options::default()
        };
        let config = connect::config(&options).await?;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).with_context(|| format!("use the way to {url}"))?;
        Ok(Self { client, url })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All objects of a kind, in all namespaces.
    ///
    /// # Errors
    ///
    /// If the API server does not answer, or says something else than that it does not know the kind or that it refuses.
    pub(crate) async fn list<T>(&self) -> anyhow::Result<Listed<T>>
    where
        T: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned,
    {
        self.list_as(&T::DynamicType::default()).await
    }

    /// The same of a kind that has to be told what it is, or in which version.
    ///
    /// # Errors
    ///
    /// As [`Server::list`].
    pub(crate) async fn list_as<T>(&self, is: &T::DynamicType) -> anyhow::Result<Listed<T>>
    where
        T: Resource + Clone + Debug + DeserializeOwned,
    {
        let api: Api<T> = Api::all_with(self.client.clone(), is);
        let kind = T::plural(is);
        let server = &self.url;
        let mut objects = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let answer = tokio::time::timeout(ANSWER, api.list(&page)).await;
            let list = match answer {
                Err(_) => bail!("the API server {server} does not answer within {} s", ANSWER.as_secs()),
                Ok(Ok(list)) => list,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(Listed::Unserved),
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                    return Ok(Listed::Refused(format!(
                        "the API server {server} refuses to list {kind} ({}): use credentials that may",
                        status.message
                    )));
                }
                Ok(Err(error)) => {
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
