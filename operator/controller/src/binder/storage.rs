//! Asks for the volumes of a pod that has a place.

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Binder, Outcome};
use crate::{
    failure::Failure,
    lean::{self, Object},
    translate::volume::SELECTED_NODE,
    volumes::Preparation,
};

/// Annotation of a volume that was given to a claim, and not made for it by its author: it can be taken back.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

impl Binder {
    /// Carries out preparations one after another, until one fails. To repeat one does no harm.
    pub(super) async fn prepare(&self, preparations: &[Preparation]) -> Outcome {
        for preparation in preparations {
            let (kind, name) = match preparation {
                Preparation::Select { claim, .. } => ("persistentvolumeclaim", &claim.1),
                Preparation::Give { volume, .. } => ("persistentvolume", volume),
            };
            let told = |message: &str| format!("{kind} {name}: {message}");
            match self.ask(preparation).await {
                Ok(()) => {}
                Err(Failure::Refused(message)) => return Outcome::Refused(told(&message)),
                Err(other) => return Outcome::Failed(told(&other.message())),
            }
        }
        Outcome::Done
    }

    async fn ask(&self, preparation: &Preparation) -> Result<(), Failure> {
        match preparation {
            Preparation::Select { claim, node } => {
                let api: Api<Object<lean::VolumeClaim>> = Api::namespaced_with(self.client.clone(), &claim.0, &None);
                let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                self.merge(&api, &claim.1, &patch).await
            }
            Preparation::Give {
                claim,
                uid,
                volume,
                version,
            } => {
                let api: Api<Object<lean::Volume>> = Api::all_with(self.client.clone(), &None);
                let patch = json!({
                    // Nobody else may have got it meanwhile.
                    "metadata": {"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: "yes"}},
                    "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": claim.0, "name": claim.1, "uid": uid}},
                });
                self.merge(&api, volume, &patch).await
            }
        }
    }

    async fn merge<K>(&self, api: &Api<K>, name: &str, patch: &Value) -> Result<(), Failure>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        self.retry.run(|| api.patch(name, &params, &patch)).await.map(|_| ())
    }
}
