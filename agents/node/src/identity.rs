//! Ways to the API server: as whom, and over which connections.

use std::path::Path;

use anyhow::Context;
use http::{HeaderName, HeaderValue, Request};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::service_fn;

/// Service account of every agent.
pub const SERVICE_ACCOUNT: (&str, &str) = ("duosuan-system", "duosuan-agent");

/// Configuration from a file, or from the pod that the agent runs in.
///
/// # Errors
///
/// If there is none, with the file and what to give.
pub async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let Some(path) = kubeconfig else {
        return Config::incluster()
            .context("not in a pod of a cluster: give --kubeconfig FILE, or --policy FILE to protect the node alone");
    };
    let file = Kubeconfig::read_from(path).with_context(|| format!("reading --kubeconfig {}", path.display()))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("--kubeconfig {} names no usable cluster and user", path.display()))
}

/// A client that acts as the agent of `node`, over the connections of `base`, whose user may impersonate.
///
/// The token of a real agent carries the name of its node; impersonation says the same by an extra, so that the rules
/// which hold agents to their own node are exercised by simulated ones too.
///
/// # Errors
///
/// If `node` cannot be a header's value.
pub fn as_agent_of(base: &Client, node: &str) -> anyhow::Result<Client> {
    let (namespace, name) = SERVICE_ACCOUNT;
    let header = |text: String| HeaderValue::from_str(&text).with_context(|| format!("{text:?} is no header value"));
    let user = HeaderName::from_static("impersonate-user");
    let group = HeaderName::from_static("impersonate-group");
    let extra = HeaderName::from_static("impersonate-extra-authentication.kubernetes.io%2fnode-name");
    let headers = vec![
        (user, header(format!("system:serviceaccount:{namespace}:{name}"))?),
        (group.clone(), HeaderValue::from_static("system:serviceaccounts")),
        (group.clone(), header(format!("system:serviceaccounts:{namespace}"))?),
        (group, HeaderValue::from_static("system:authenticated")),
        (extra, header(node.to_owned())?),
    ];
    let base = base.clone();
    let service = service_fn(move |mut request: Request<Body>| {
        for (name, value) in &headers {
            request.headers_mut().append(name, value.clone());
        }
        let base = base.clone();
        async move { base.send(request).await }
    });
    Ok(Client::new(service, namespace))
}
