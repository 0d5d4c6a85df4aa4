//! Step 3: CRDs and the access rules of the chart.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    core::GroupVersionKind,
    discovery::ApiResource,
    runtime::wait::{await_condition, conditions::is_crd_established},
};

use super::{
    apply::{Applier, documents},
    cluster::plain,
    report::Reporter,
};

/// The access rules, in the order in which they can be applied.
const ACCESS: [(&str, &str); 7] = [
    (
        "namespace.yaml",
        include_str!("../../../../charts/duosuan/access/namespace.yaml"),
    ),
    (
        "operator.yaml",
        include_str!("../../../../charts/duosuan/access/operator.yaml"),
    ),
    (
        "agent.yaml",
        include_str!("../../../../charts/duosuan/access/agent.yaml"),
    ),
    (
        "agent-confinement.yaml",
        include_str!("../../../../charts/duosuan/access/agent-confinement.yaml"),
    ),
    (
        "agent-eviction.yaml",
        include_str!("../../../../charts/duosuan/access/agent-eviction.yaml"),
    ),
    (
        "routing.yaml",
        include_str!("../../../../charts/duosuan/access/routing.yaml"),
    ),
    (
        "users.yaml",
        include_str!("../../../../charts/duosuan/access/users.yaml"),
    ),
];

/// How long the API server may take to serve a definition.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// Applies the definitions, waits until they are served, and applies the access rules.
pub(crate) async fn install(client: &Client, reporter: &Reporter) -> anyhow::Result<()> {
    reporter.step("installing the CRDs and the access rules");
    let mut applier = Applier::default();
    let crds = duosuan_crds::all();
    for crd in &crds {
        let object: DynamicObject = serde_json::to_value(crd)
            .and_then(serde_json::from_value)
            .context("convert a CRD")?;
        applier.apply(client, &object).await?;
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in &crds {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        let established = await_condition(api.clone(), name, is_crd_established());
        match tokio::time::timeout(ESTABLISHED_WITHIN, established).await {
            Ok(watched) => drop(watched.with_context(|| format!("watch the CRD {name}"))?),
            Err(_) => bail!(
                "the CRD {name} is not established after {} s: kubectl describe crd {name}",
                ESTABLISHED_WITHIN.as_secs()
            ),
        }
        served(client, crd).await.with_context(|| format!("list {name}"))?;
    }
    for (file, text) in ACCESS {
        for object in documents(file, text)? {
            applier.apply(client, &object).await?;
        }
    }
    Ok(())
}

/// Waits until objects of the kind can be listed. An established definition is answered for some 100 ms with 404, then with
/// 429, and each watch that meets these backs off for much longer.
async fn served(client: &Client, crd: &CustomResourceDefinition) -> anyhow::Result<()> {
    let spec = &crd.spec;
    let version = spec
        .versions
        .first()
        .map(|version| version.name.as_str())
        .unwrap_or_default();
    let kind = GroupVersionKind::gvk(&spec.group, version, &spec.names.kind);
    let api: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, &spec.names.plural),
    );
    let deadline = Instant::now() + ESTABLISHED_WITHIN;
    loop {
        match api.list(&ListParams::default().limit(1)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429 | 503) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(plain(error)),
            Ok(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_access_rule_of_the_chart_is_carried() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/duosuan/access");
        let files: BTreeSet<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, ACCESS.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn every_access_rule_is_an_object_with_a_name() {
        for (file, text) in ACCESS {
            for object in documents(file, text).unwrap() {
                assert!(object.types.is_some() && object.metadata.name.is_some(), "{file}");
            }
        }
    }
}
