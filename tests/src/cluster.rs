//! One real control plane for a test binary, and the ways to talk to it.

use std::{collections::HashMap, path::Path, sync::OnceLock, time::Duration};

use anyhow::{Context, Result, anyhow};
use duosuan_embedded::{ControlPlane, Options};
use futures::TryStreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::{self, Scope},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;

/// The node name in an agent's token, as Kubernetes calls it in the user's extra information.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The control plane of this test binary: started by the first test that asks, ended with the process, whose end it cannot
/// outlive. It is the API server and its etcd alone.
///
/// # Errors
///
/// If it could not be started; every later call says so again.
pub fn cluster() -> Result<&'static ControlPlane> {
    static CLUSTER: OnceLock<std::result::Result<ControlPlane, String>> = OnceLock::new();
    started(&CLUSTER, &Options::default())
}

/// As [`cluster`], with kube-controller-manager beside it.
///
/// # Errors
///
/// If it could not be started; every later call says so again.
pub fn cluster_with_controllers() -> Result<&'static ControlPlane> {
    static CLUSTER: OnceLock<std::result::Result<ControlPlane, String>> = OnceLock::new();
    started(
        &CLUSTER,
        &Options {
            controller_manager: true,
            ..Options::default()
        },
    )
}

fn started(
    cluster: &'static OnceLock<std::result::Result<ControlPlane, String>>,
    options: &Options,
) -> Result<&'static ControlPlane> {
    let started =
        cluster.get_or_init(|| ControlPlane::start(options).map_err(|e| format!("start the control plane: {e}")));
    started.as_ref().map_err(|e| anyhow!("{e}"))
}

/// Asks again and again until `question` answers, for what the API server does some time after it said yes, such as
/// beginning to enforce a policy.
///
/// # Errors
///
/// If it fails, or has no answer after a minute.
pub async fn eventually<T, F>(what: &str, mut question: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let asking = async {
        loop {
            if let Some(answer) = question().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking)
        .await
        .with_context(|| format!("after a minute, still not: {what}"))?
}

/// The way to the API server for the administrator.
///
/// # Errors
///
/// If the kubeconfig cannot be read.
pub async fn config(control_plane: &ControlPlane) -> Result<Config> {
    from_file(control_plane.kubeconfig()).await
}

async fn from_file(path: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// A client of the administrator.
///
/// # Errors
///
/// If the kubeconfig cannot be read.
pub async fn admin(control_plane: &ControlPlane) -> Result<Client> {
    Ok(Client::try_from(config(control_plane).await?)?)
}

/// The way to the API server as a service account of `duosuan-system`, with the node in its token if one is given.
///
/// # Errors
///
/// If the kubeconfig cannot be read.
pub async fn account_config(control_plane: &ControlPlane, name: &str, node: Option<&str>) -> Result<Config> {
    let mut config = config(control_plane).await?;
    config.auth_info.impersonate = Some(format!("system:serviceaccount:duosuan-system:{name}"));
    // The API server adds these to a token's user, but to an impersonated one only what it is told.
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:duosuan-system",
        "system:authenticated",
    ];
    config.auth_info.impersonate_groups = Some(groups.map(str::to_owned).into());
    if let Some(node) = node {
        config.auth_info.impersonate_user_extra = Some(HashMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]));
    }
    Ok(config)
}

/// A client that acts as a service account, as [`account_config`] says.
///
/// # Errors
///
/// If the kubeconfig cannot be read.
pub async fn account(control_plane: &ControlPlane, name: &str, node: Option<&str>) -> Result<Client> {
    Ok(Client::try_from(account_config(control_plane, name, node).await?)?)
}

/// Installs the definitions of the API and waits until the API server serves them.
///
/// # Errors
///
/// If one is refused, or is accepted but has a fault that keeps it from being served.
pub async fn install_crds(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in duosuan_crds::all() {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("duosuan-tests").force(), &Patch::Apply(&crd))
            .await
            .with_context(|| format!("apply {name}"))?;
    }
    for crd in duosuan_crds::all() {
        let name = crd.name_any();
        let served = async {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut changes = std::pin::pin!(watcher(api.clone(), config).applied_objects());
            while let Some(found) = changes.try_next().await? {
                if condition(&found, "Established") == Some("True") {
                    return Ok(found);
                }
            }
            Err(anyhow!("the watch of {name} ended"))
        };
        let found = tokio::time::timeout(Duration::from_secs(60), served)
            .await
            .with_context(|| format!("{name} is not served after a minute"))??;
        for fault in ["NonStructuralSchema", "Terminating"] {
            if condition(&found, fault) == Some("True") {
                return Err(anyhow!("{name} has condition {fault}: {:?}", found.status));
            }
        }
    }
    Ok(())
}

fn condition<'a>(crd: &'a CustomResourceDefinition, type_: &str) -> Option<&'a str> {
    let conditions = crd.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str())
}

/// The API of an object of whatever kind, in its namespace.
///
/// # Errors
///
/// If the server does not know the kind.
pub async fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(types)?;
    let (resource, capabilities) = discovery::pinned_kind(client, &kind)
        .await
        .with_context(|| format!("look up {} {}", types.api_version, types.kind))?;
    Ok(match (capabilities.scope, object.namespace()) {
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), &namespace, &resource),
        (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
    })
}

/// Applies one object by server-side apply, refusing fields that its schema does not know.
///
/// # Errors
///
/// If the server refuses it; the error names the object.
pub async fn apply(client: &Client, object: &DynamicObject) -> Result<DynamicObject> {
    let name = object.name_any();
    let params = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("duosuan-tests").force()
    };
    api_of(client, object)
        .await?
        .patch(&name, &params, &Patch::Apply(object))
        .await
        .with_context(|| {
            format!(
                "apply {} {name}",
                object.types.as_ref().map_or("object", |t| t.kind.as_str())
            )
        })
}

/// The objects of a text with one YAML document or several; empty documents are left out.
///
/// # Errors
///
/// If a document is no YAML, or no object with apiVersion and kind.
pub fn objects(text: &str) -> Result<Vec<DynamicObject>> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document)?;
        if !value.is_null() {
            let object: DynamicObject =
                serde_json::from_value(value.clone()).with_context(|| format!("no Kubernetes object: {value}"))?;
            found.push(object);
        }
    }
    Ok(found)
}
