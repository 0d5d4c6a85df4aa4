//! Writes into the claims of a pod which devices they have, before the pod is bound.

use duosuan_scheduler::event::DeviceAllocation;
use http::Request;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{BINDING_TIMEOUT, Binder, Outcome, PodName};
use crate::{
    devices::Grant,
    failure::Failure,
    lean,
    translate::dra::{allocation_of, allocation_result, same_devices},
};

/// Keeps a claim until its devices are given back: the API server's own name for it.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a claim is written that somebody else changes meanwhile. Each pod of a shared one does.
const TRIES: u32 = 16;

impl Binder {
    /// Writes the claims of a pod one after the other, until one fails. To repeat it does no harm.
    pub(super) async fn grant(&self, pod: &PodName, grants: &mut [Grant]) -> Outcome {
        for grant in grants {
            let claim = grant.of.claim.clone();
            let told = |message: &str| format!("resourceclaim {claim}: {message}");
            match self.write_claim(pod, grant).await {
                Ok(()) => {}
                // It may have been carried out all the same: nobody else gets the devices until that is known.
                Err(Failure::Transient(message)) => return Outcome::Unknown(told(&message)),
                Err(other) => return Outcome::Failed(told(&other.message())),
            }
        }
        Outcome::Done
    }

    /// Gives back what claims of a pod have that has no node: it may have to go elsewhere. Done if none of them has what it
    /// had, or others use it. All are tried, and to repeat it does no harm.
    pub(super) async fn take_back<'a>(&self, pod: &PodName, grants: impl Iterator<Item = &'a mut Grant>) -> Outcome {
        let mut outcome = Outcome::Done;
        for grant in grants {
            let api = self.claims(&pod.namespace);
            let mut tried = Ok(());
            for _ in 0..TRIES {
                tried = self.try_to_take_back(&api, pod, grant).await;
                if !matches!(tried, Err(Failure::Conflict(_))) {
                    break;
                }
            }
            match tried {
                Ok(()) => {}
                // What is written of it is of a claim that is no more.
                Err(Failure::Gone) => grant.written = None,
                Err(failure) => {
                    let (claim, error) = (&grant.of.claim, failure.message());
                    tracing::warn!(namespace = pod.namespace, claim, error, "a claim keeps its devices");
                    outcome = Outcome::Failed(format!("resourceclaim {claim}: {error}"));
                }
            }
        }
        outcome
    }

    fn claims(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("resource.k8s.io", "v1", "ResourceClaim");
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::from_gvk(&kind))
    }

    async fn write_claim(&self, pod: &PodName, grant: &mut Grant) -> Result<(), Failure> {
        let api = self.claims(&pod.namespace);
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.try_to_write(&api, pod, grant).await {
                Err(Failure::Conflict(message)) => last = message,
                done => return done,
            }
        }
        Err(Failure::Conflict(last))
    }

    async fn try_to_take_back(
        &self,
        api: &Api<DynamicObject>,
        pod: &PodName,
        grant: &mut Grant,
    ) -> Result<(), Failure> {
        let name = grant.of.claim.clone();
        let mut claim = self.retry.run(|| api.get(&name)).await?;
        if claim.metadata.uid.as_deref() != Some(&grant.of.uid) {
            return Err(Failure::Gone);
        }
        if has(&claim, &grant.of.allocation) {
            let reserved = claim.data.pointer("/status/reservedFor").and_then(Value::as_array);
            let users = reserved.map_or(0, Vec::len);
            let mut others = reserved.cloned().unwrap_or_default();
            others.retain(|consumer| consumer.get("uid").and_then(Value::as_str) != Some(&pod.uid));
            if others.is_empty() || others.len() < users {
                if others.is_empty() {
                    status_of(&mut claim, "allocation", |_| Value::Null);
                }
                status_of(&mut claim, "reservedFor", |_| others.into());
                claim = self.put(pod, &claim, "/status").await?;
            }
        }
        grant.written = serde_json::to_value(claim).ok();
        Ok(())
    }

    /// Writes a claim, or a subresource of it, soon or never: a late write must not meet what a next leader has decided.
    async fn put(&self, pod: &PodName, claim: &DynamicObject, subresource: &str) -> Result<DynamicObject, Failure> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let path = format!(
            "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims/{name}{subresource}?timeout={}s",
            pod.namespace,
            BINDING_TIMEOUT.as_secs()
        );
        let body = serde_json::to_vec(claim).map_err(|error| Failure::Refused(error.to_string()))?;
        let write = || {
            let request = Request::put(&path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
            async { self.client.request(request.map_err(kube::Error::HttpError)?).await }
        };
        self.retry.run(write).await
    }

    async fn try_to_write(&self, api: &Api<DynamicObject>, pod: &PodName, grant: &mut Grant) -> Result<(), Failure> {
        let name = grant.of.claim.clone();
        let refuse = |what: &str| Err(Failure::Refused(what.to_owned()));
        let mut claim = self.retry.run(|| api.get(&name)).await?;
        if claim.metadata.uid.as_deref() != Some(&grant.of.uid) {
            return refuse("it is another one of the same name by now");
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return refuse("it got deleted in the meantime");
        }
        let has = claim.data.pointer("/status/allocation").filter(|has| !has.is_null());
        match has {
            Some(has) if !same_devices(has, &grant.of.allocation) => {
                return refuse("it got allocated elsewhere in the meantime");
            }
            Some(_) => {}
            None => {
                let finalizers = claim.metadata.finalizers.get_or_insert_default();
                if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                    finalizers.push(FINALIZER.to_owned());
                    claim = self.put(pod, &claim, "").await?;
                }
                let result = allocation_result(&claim.data, &grant.of.allocation, &grant.of.uid, &grant.classes);
                status_of(&mut claim, "allocation", |_| result);
            }
        }
        let reserved = claim.data.pointer("/status/reservedFor").and_then(Value::as_array);
        let is_pod = |consumer: &Value| consumer.get("uid").and_then(Value::as_str) == Some(&pod.uid);
        if !reserved.is_some_and(|consumers| consumers.iter().any(is_pod)) {
            let consumer = json!({"resource": "pods", "name": pod.name, "uid": pod.uid});
            status_of(&mut claim, "reservedFor", |old| {
                let mut consumers = old.as_array().cloned().unwrap_or_default();
                consumers.push(consumer);
                consumers.into()
            });
            claim = self.put(pod, &claim, "/status").await?;
        }
        grant.written = serde_json::to_value(claim).ok();
        Ok(())
    }
}

/// True if a claim has exactly these devices, as they are read or as they are written.
fn has(claim: &DynamicObject, allocation: &DeviceAllocation) -> bool {
    let written = claim.data.pointer("/status/allocation").filter(|has| !has.is_null());
    let read = || {
        let read: lean::dra::ResourceClaimStatus = serde_json::from_value(claim.data.get("status")?.clone()).ok()?;
        allocation_of(&read)
    };
    written.is_some_and(|has| same_devices(has, allocation) || read().as_ref() == Some(allocation))
}

/// Changes a field of a claim's status.
fn status_of(claim: &mut DynamicObject, field: &str, change: impl FnOnce(&Value) -> Value) {
    let Value::Object(data) = &mut claim.data else { return };
    let status = data.entry("status").or_insert_with(|| json!({}));
    if !status.is_object() {
        *status = json!({});
    }
    if let Value::Object(status) = status {
        let new = change(status.get(field).unwrap_or(&Value::Null));
        status.insert(field.to_owned(), new);
    }
}

#[cfg(test)]
mod tests;
