//! Objects to the API server: by server-side apply, or many at once.

use std::{collections::BTreeMap, fmt::Debug};

use anyhow::{Context, anyhow, bail};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind},
};
use serde::{Serialize, de::DeserializeOwned};

use super::cluster::plain;

/// Owner of the fields that `up` applies.
const FIELD_MANAGER: &str = "duosuan-up";
/// Creations in flight. More does not make a server on a few cores faster.
const IN_FLIGHT: usize = 48;

/// The documents of a YAML text.
pub(crate) fn documents(name: &str, text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| {
            // By way of JSON values: DynamicObject flattens, which only a self-describing value supports in full.
            let value: serde_json::Value = serde::Deserialize::deserialize(document)?;
            Ok(serde_json::from_value(value)?)
        })
        .collect::<Result<Vec<_>, anyhow::Error>>()
        .with_context(|| format!("read {name}"))
}

/// Applies objects one after another.
#[derive(Default)]
pub(crate) struct Applier {
    kinds: BTreeMap<(String, String), (ApiResource, ApiCapabilities)>,
}

impl Applier {
    pub(crate) async fn apply(&mut self, client: &Client, object: &DynamicObject) -> anyhow::Result<()> {
        let Some(types) = object.types.clone() else {
            bail!("an object has no apiVersion and kind")
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let told = format!("apply {} {name}", types.kind);
        let key = (types.api_version.clone(), types.kind.clone());
        if !self.kinds.contains_key(&key) {
            let kind = GroupVersionKind::try_from(&types)
                .map_err(|error| anyhow!("{error}"))
                .context(told.clone())?;
            let found = pinned_kind(client, &kind)
                .await
                .map_err(plain)
                .with_context(|| told.clone())?;
            self.kinds.insert(key.clone(), found);
        }
        let Some((resource, capabilities)) = self.kinds.get(&key) else {
            bail!("{told}: unknown kind")
        };
        let api: Api<DynamicObject> = match (&capabilities.scope, &object.metadata.namespace) {
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, resource),
            (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), resource),
            (Scope::Cluster, _) => Api::all_with(client.clone(), resource),
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(object))
            .await
            .map_err(plain)
            .context(told)?;
        Ok(())
    }
}

/// Creates all objects, many at once, starting them in the given order. One that is there already is left as it is.
pub(crate) async fn create_all<K>(api: &Api<K>, objects: Vec<K>, mut each: impl FnMut(usize)) -> anyhow::Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let mut done = 0;
    let parameters = PostParams::default();
    let mut results = stream::iter(&objects)
        .map(|object| async {
            match api.create(&parameters, object).await {
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
                Err(error) => {
                    Err(plain(error).context(format!("create {}", object.meta().name.as_deref().unwrap_or_default())))
                }
                Ok(_) => Ok(()),
            }
        })
        .buffered(IN_FLIGHT);
    while results.try_next().await?.is_some() {
        done += 1;
        each(done);
    }
    Ok(())
}
